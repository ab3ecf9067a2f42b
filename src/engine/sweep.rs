//! What is left on a Pi when an engine has stopped, and how it goes away: containers that outlived their engine, mounts,
//! network links and namespaces, packet filter rules, folders.
//!
//! Sources: the script `k3s-killall.sh` that k3s' `install.sh` writes, and kubernetes.io, "kubeadm reset" ("Cleanup of CNI
//! configuration", "Cleanup of network traffic rules", "Cleanup of $HOME/.kube"). k3s and kubelet leave their containers
//! running when they stop, by `KillMode=process` and by design; systemd then waits for them, 90 s by default, at a power-off.

use std::collections::BTreeMap;
use std::time::Duration;

use super::site::{Change, Failure, Files, Mode, RUN_DIR, Site, TEXT_BYTES, pause};
use super::tool::{OUTPUT_BYTES, ToolCall};

/// The folders that a reset of one engine or the other removes. What is configured must lie in none of them.
pub(crate) const SWEPT: [&str; 12] = [
    "/etc/rancher",
    "/var/lib/rancher",
    "/etc/kubernetes",
    "/etc/cni/net.d",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/run/k3s",
    "/run/flannel",
    "/run/beehive-engine",
    "/var/lib/beehive-engine",
    "/root/.kube",
];

pub(super) const SYSTEMCTL: &str = "/usr/bin/systemctl";
const KILL: &str = "/usr/bin/kill";
const UMOUNT: &str = "/usr/bin/umount";
const IP: &str = "/usr/sbin/ip";
const IPVSADM: &str = "/usr/sbin/ipvsadm";
const SAVE_AND_RESTORE: [(&str, &str); 2] = [
    ("/usr/sbin/iptables-save", "/usr/sbin/iptables-restore"),
    ("/usr/sbin/ip6tables-save", "/usr/sbin/ip6tables-restore"),
];

/// The links that network add-ons make, by name: flannel, IPVS, Calico, Cilium, Weave. `cni0` comes last, after its ports.
const LINKS: [&str; 12] = [
    "flannel.1",
    "flannel-v6.1",
    "flannel-wg",
    "flannel-wg-v6",
    "kube-ipvs0",
    "vxlan.calico",
    "tunl0",
    "cilium_host",
    "cilium_net",
    "cilium_vxlan",
    "weave",
    "cni0",
];

/// A unit that is told to stop: k3s and kubelet end within a second or two, and the whole stop of an engine has a minute.
const UNIT_STOP: Duration = Duration::from_secs(20);
/// What else is asked of systemd: containerd's start and a reload of all units take seconds on a Pi that is busy.
const UNIT_CHANGE: Duration = Duration::from_secs(60);
/// A tool that only asks the kernel for something, on a Pi that is busy.
const KERNEL: Duration = Duration::from_secs(20);
/// A list of links or namespaces is longer than what is kept of a tool's output on a node with a hundred pods: it is asked for
/// again until nothing is left.
const ROUNDS: usize = 16;
/// An argument list has room for some thousand numbers; this is far below.
const AT_ONCE: usize = 200;
/// A process that was killed is gone at once, unless it hangs on a device.
const DYING: Duration = Duration::from_millis(200);

/// A call with the environment that every engine's tools get: nothing of ours but where programs and root's home are.
pub(super) fn call<S: Into<String>>(program: &'static str, arguments: impl IntoIterator<Item = S>) -> ToolCall {
    ToolCall::new(program, arguments)
        .with("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .with("HOME", "/root")
}

/// Runs `systemctl` with these words.
pub(super) async fn systemctl<const N: usize>(site: &Site, words: [&str; N]) -> Result<(), Failure> {
    let what = format!("systemctl {}", words.join(" "));
    site.must(&what, call(SYSTEMCTL, words).within(UNIT_CHANGE)).await.map(|_| ())
}

/// Whether systemd says that the unit is active.
pub(super) async fn is_active(site: &Site, unit: &str) -> Result<bool, Failure> {
    Ok(site.run(call(SYSTEMCTL, ["is-active", "--quiet", unit]).within(KERNEL)).await?.succeeded())
}

/// Stops a unit; one that does not end by itself is killed.
pub(super) async fn stop_unit(site: &Site, unit: &str) -> Result<(), Failure> {
    let what = format!("stopping {unit}");
    match site.run_in_time(call(SYSTEMCTL, ["stop", unit]).within(UNIT_STOP)).await? {
        Some(ran) if ran.succeeded() => Ok(()),
        Some(ran) => Err(site.failed(&what, SYSTEMCTL, &ran)),
        None => {
            tracing::warn!(unit, "the unit does not stop by itself and is killed");
            systemctl(site, ["kill", "--signal=SIGKILL", unit]).await?;
            systemctl(site, ["stop", unit]).await
        }
    }
}

/// Kills the containers' shims and all that they started: every process whose command line has all of `words`.
pub(super) async fn kill_shims(site: &Site, words: &'static [&'static str]) -> Result<usize, Failure> {
    let mut killed = 0;
    for _ in 0..ROUNDS {
        let found = site.disk(move |files| processes(files, words)).await?;
        if found.is_empty() {
            return Ok(killed);
        }
        killed += found.len();
        for some in found.chunks(AT_ONCE) {
            // one that has ended meanwhile makes kill fail; whether all are gone is looked at
            let numbers = some.iter().map(u32::to_string);
            site.run(call(KILL, std::iter::once("-9".to_owned()).chain(numbers)).within(KERNEL)).await?;
        }
        pause(DYING).await;
    }
    Err(Failure::new("processes", "containers of the engine do not die; restart this Pi, then do it again"))
}

fn processes(files: &Files, words: &[&str]) -> Result<Vec<u32>, Failure> {
    let mut parents: BTreeMap<u32, u32> = BTreeMap::new();
    let mut found: Vec<u32> = Vec::new();
    for number in files.list("/proc")?.iter().filter_map(|name| name.parse::<u32>().ok()) {
        // a process may end while it is looked at
        let Ok(stat) = files.text(format!("/proc/{number}/stat")) else { continue };
        // the name in the middle may hold anything, so what counts stands behind its closing bracket: state, then parent
        let mut after = stat.rsplit_once(')').map_or("", |(_, after)| after).split_ascii_whitespace();
        let (state, parent) = (after.next(), after.next().and_then(|word| word.parse().ok()));
        if state == Some("Z") {
            continue;
        }
        parents.insert(number, parent.unwrap_or(0));
        let command =
            files.text(format!("/proc/{number}/cmdline")).map(|text| text.replace('\0', " ")).unwrap_or_default();
        if words.iter().all(|word| command.contains(word)) {
            found.push(number);
        }
    }
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        let children: Vec<u32> = parents
            .iter()
            .filter(|(child, of)| **of == parent && !found.contains(child))
            .map(|(child, _)| *child)
            .collect();
        found.extend(children);
    }
    Ok(found)
}

/// Unmounts everything at or below `places`, the deepest first; what is in use is detached.
pub(super) async fn unmount(site: &Site, places: &'static [&'static str]) -> Result<usize, Failure> {
    let found = move |files: &Files| -> Result<Vec<String>, Failure> {
        Ok(files.mounts()?.into_iter().filter(|mount| places.iter().any(|place| below(mount, place))).collect())
    };
    let mut done = 0;
    for how in ["-f", "-l"] {
        let mounts = site.disk(found).await?;
        if mounts.is_empty() {
            return Ok(done);
        }
        for mount in &mounts {
            // the list is read again afterwards; that decides
            if site.run(call(UMOUNT, [how, &site.word(mount)]).within(KERNEL)).await?.succeeded() {
                done += 1;
            }
        }
    }
    match site.disk(found).await?.first() {
        None => Ok(done),
        Some(mount) => {
            Err(Failure::new("mounted", format!("{mount} cannot be unmounted; restart this Pi, then do it again")))
        }
    }
}

/// Whether `mount` is at or below `place`; a place that ends with `-` is the beginning of a name.
fn below(mount: &str, place: &str) -> bool {
    mount.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || place.ends_with('-'))
}

/// Removes network namespaces, links and packet filter rules of the cluster; says what it found.
pub(super) async fn network(site: &Site) -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    if site.has_tool(IPVSADM) && link_is_there(site, "kube-ipvs0").await? {
        site.must("clearing IPVS", call(IPVSADM, ["--clear"]).within(KERNEL)).await?;
        removed.push("IPVS services".to_owned());
    }
    let rules = rules(site).await?;
    if rules > 0 {
        removed.push(format!("{rules} packet filter rules"));
    }
    let spaces = repeat(site, &["netns", "list"], &["netns", "delete"], |name| name.starts_with("cni-")).await?;
    if spaces > 0 {
        removed.push(format!("{spaces} network namespaces"));
    }
    let links = links(site).await?;
    let bridge = match &links {
        Some(links) => links.iter().any(|link| link == "cni0"),
        None => link_is_there(site, "cni0").await?,
    };
    if bridge {
        let list = ["-brief", "link", "show", "master", "cni0"];
        let ports = repeat(site, &list, &["link", "delete"], |_| true).await?;
        if ports > 0 {
            removed.push(format!("{ports} links of pods"));
        }
    }
    for name in LINKS {
        let there = match &links {
            Some(links) => links.iter().any(|link| link == name),
            None => link_is_there(site, name).await?,
        };
        if there {
            // tunl0 belongs to the kernel's module and cannot be deleted, only taken down
            let words = if name == "tunl0" { vec!["link", "set", name, "down"] } else { vec!["link", "delete", name] };
            site.must(&format!("removing the link {name}"), call(IP, words).within(KERNEL)).await?;
            if name != "tunl0" {
                removed.push(name.to_owned());
            }
        }
    }
    Ok(removed)
}

/// Deletes with `ip` what `ip` lists, by the first word of each line (`veth12ab@if2  UP  …`, `cni-12 (id: 3)`), until the list has
/// none that is `wanted`; says how many.
async fn repeat(site: &Site, list: &[&str], delete: &[&str], wanted: fn(&str) -> bool) -> Result<usize, Failure> {
    let mut deleted = 0;
    for _ in 0..ROUNDS {
        let what = format!("ip {}", list.join(" "));
        let found = site.must(&what, call(IP, list.iter().copied()).within(KERNEL)).await?;
        let names = found.stdout.lines().filter_map(|line| line.split_whitespace().next()?.split('@').next());
        let names: Vec<&str> = names.filter(|name| wanted(name)).collect();
        if names.is_empty() {
            return Ok(deleted);
        }
        for name in names {
            // whether it is gone is seen in the next list
            let words = delete.iter().copied().chain([name]);
            deleted += usize::from(site.run(call(IP, words).within(KERNEL)).await?.succeeded());
        }
    }
    let what = list.join(" ");
    Err(Failure::new(
        "network",
        format!("`ip {what}` still lists something of the cluster; restart this Pi, then reset again"),
    ))
}

/// All links; none where there are so many that the list may have lost its beginning.
async fn links(site: &Site) -> Result<Option<Vec<String>>, Failure> {
    let list = site.must("listing the links", call(IP, ["-brief", "link", "show"]).within(KERNEL)).await?;
    let names = list.stdout.lines().filter_map(|line| line.split_whitespace().next()?.split('@').next());
    // a line has some eighty bytes
    let whole = list.stdout.len() + 1024 < OUTPUT_BYTES;
    Ok(whole.then(|| names.map(str::to_owned).collect()))
}

async fn link_is_there(site: &Site, name: &str) -> Result<bool, Failure> {
    Ok(site.run(call(IP, ["link", "show", "dev", name]).within(KERNEL)).await?.succeeded())
}

/// Takes the cluster's rules out of the packet filter and leaves all others; says how many went.
async fn rules(site: &Site) -> Result<usize, Failure> {
    const FILE: &str = "/run/beehive-engine/rules";
    let mut removed = 0;
    for (save, restore) in SAVE_AND_RESTORE {
        if !site.has_tool(save) || !site.has_tool(restore) {
            continue;
        }
        site.disk(|files| {
            files.folder(RUN_DIR, Mode::Secret)?;
            files.remove_file(FILE)
        })
        .await?;
        // into a file: what is kept of a tool's output is shorter than the rules of a cluster
        let file = site.word(FILE);
        site.must("saving the packet filter's rules", call(save, ["-f", &file]).within(KERNEL)).await?;
        let gone = site
            .disk(|files| {
                let bytes = files.read(FILE, TEXT_BYTES)?.unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let kept: String = text.split_inclusive('\n').filter(|line| !is_of_a_cluster(line)).collect();
                let gone = text.lines().count().saturating_sub(kept.lines().count());
                if gone > 0 {
                    files.write(FILE, kept.as_bytes(), Mode::Secret)?;
                }
                Ok(gone)
            })
            .await?;
        if gone > 0 {
            site.must(
                "restoring the other rules of the packet filter",
                call(restore, ["--wait=10", &file]).within(KERNEL),
            )
            .await?;
            removed += gone;
        }
        site.disk(|files| files.remove_file(FILE)).await?;
    }
    Ok(removed)
}

/// As `k3s-killall.sh` decides it.
fn is_of_a_cluster(rule: &str) -> bool {
    rule.contains("KUBE-") || rule.contains("CNI-") || rule.to_ascii_lowercase().contains("flannel")
}

/// Removes folders; says which were there.
pub(super) fn folders(files: &Files, folders: &[&str]) -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    for folder in folders {
        match files.remove_tree(folder)? {
            Change::Made => removed.push((*folder).to_owned()),
            Change::None => {}
        }
    }
    Ok(removed)
}
