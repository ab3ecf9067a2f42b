//! The real kubeadm's `reset` by the whole way that it takes on a Pi: the daemon's end, the local socket, a `beehive engine
//! serve` process, the kubeadm engine, kubeadm. In a network and a mount namespace of the test's own lies what a node leaves;
//! afterwards the bridge and the packet filter's rules of the cluster are gone, and what is somebody else's is there.
//!
//! Needs root, iptables and the kubeadm that `tests/kubernetes/build` builds (`BEEHIVE_KUBE`, else `~/.cache/beehive-kubernetes`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use beehive::engine::{Engine, EngineWork, RootEngine};
use beehive::store::Store;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// kubeadm takes about a second; a machine that is busy some more.
const PATIENCE: Duration = Duration::from_secs(60);

fn kubeadm() -> PathBuf {
    let cache = std::env::var_os("BEEHIVE_KUBE").map_or_else(
        || Path::new(&std::env::var_os("HOME").expect("HOME is not set")).join(".cache/beehive-kubernetes"),
        PathBuf::from,
    );
    let kubeadm = cache.join("bin/kubeadm");
    assert!(kubeadm.is_file(), "{} is missing: tests/kubernetes/build builds it", kubeadm.display());
    kubeadm
}

/// A root unit in namespaces of its own. It ends with the value, and the namespaces with it.
struct Ground {
    work: tempfile::TempDir,
    child: Child,
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ground {
    async fn start() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root: it makes namespaces");
        let work = tempfile::tempdir().unwrap();
        let config = work.path().join("beehive.toml");
        let text = format!(
            "crew = \"bee\"\nnode = \"pi-1\"\nrole = \"node\"\nstate_dir = \"{0}/state\"\nrun_dir = \"{0}\"\n\
             [engine]\nkind = \"kubeadm\"\n",
            work.path().display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("unshare")
            .args(["--mount", "--net"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine_reset/ground"))
            .args([work.path(), &kubeadm(), Path::new(env!("CARGO_BIN_EXE_beehive"))])
            .args(["engine", "serve", "--config"])
            .arg(&config)
            .arg("--socket")
            .arg(work.path().join("engine.sock"))
            .arg("--tools-below")
            .arg(work.path().join("tools"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(work.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut ground = Self { work, child };
        let end = tokio::time::Instant::now() + PATIENCE;
        while !ground.file("log").contains("the root unit listens") {
            assert!(ground.child.try_wait().unwrap().is_none(), "it has ended: {}", ground.file("log"));
            assert!(tokio::time::Instant::now() < end, "it does not listen: {}", ground.file("log"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ground
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.work.path().join(name)).unwrap_or_default()
    }

    /// What a program says there; none where it fails.
    fn there(&self, words: &[&str]) -> Option<String> {
        let output = Command::new("nsenter")
            .args(["--mount", "--net", "--target", &self.child.id().to_string(), "--"])
            .args(words)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn has(&self, path: &str) -> bool {
        self.there(&["test", "-e", path]).is_some()
    }

    fn has_link(&self, name: &str) -> bool {
        self.there(&["ip", "link", "show", "dev", name]).is_some()
    }

    fn rules(&self) -> String {
        self.there(&["iptables-save"]).expect("iptables-save fails: is iptables installed?")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubeadms_reset_leaves_neither_bridge_nor_rule() {
    let ground = Ground::start().await;
    for link in ["cni0", "veth12ab34cd", "br-somebody"] {
        assert!(ground.has_link(link), "{link} was not made");
    }
    let rules = ground.rules();
    assert!(rules.contains("-A INPUT -j KUBE-SERVICES") && rules.contains("flanneld") && rules.contains("10.9.9.9"));
    const OF_THE_CLUSTER: [&str; 9] = [
        "/etc/kubernetes/admin.conf",
        "/etc/kubernetes/kubelet.conf",
        "/etc/kubernetes/manifests/kube-apiserver.yaml",
        "/etc/kubernetes/pki/ca.crt",
        "/var/lib/kubelet/config.yaml",
        "/var/lib/etcd/member",
        "/var/lib/cni/networks",
        "/etc/cni/net.d/10-flannel.conflist",
        "/root/.kube",
    ];
    for path in OF_THE_CLUSTER {
        assert!(ground.has(path), "{path} was not made");
        if path != "/root/.kube" {
            assert!(!Path::new(path).exists(), "{path} is seen outside of the namespace");
        }
    }

    let store = Store::open(&ground.work.path().join("daemon")).unwrap();
    let engine = RootEngine::open("kubeadm", &ground.work.path().join("engine.sock"), store).await.unwrap();
    let done = tokio::time::timeout(PATIENCE, engine.perform(EngineWork::Reset)).await.unwrap();
    let done = done.unwrap_or_else(|error| panic!("{error}; log: {}", ground.file("log")));
    assert_eq!(done.code, "done");
    assert!(done.detail.contains("cni0") && done.detail.contains("packet filter rules"), "{done:?}");

    let asked = ground.file("kubeadm");
    let reset: Vec<&str> = asked.lines().filter(|line| line.contains(" reset ")).collect();
    assert!(matches!(reset[..], [line] if line.starts_with("0 reset --force")), "the real kubeadm was told: {asked}");
    let said = ground.file("said");
    assert!(said.contains("[reset] Deleting contents of"), "not the real kubeadm: {said}");
    for link in ["cni0", "veth12ab34cd", "pod0"] {
        assert!(!ground.has_link(link), "{link} is still there");
    }
    let rules = ground.rules();
    assert!(!rules.contains("KUBE-") && !rules.contains("flannel"), "{rules}");
    for path in OF_THE_CLUSTER {
        assert!(!ground.has(path), "{path} is still there");
    }
    // what is none of the cluster's
    assert!(ground.has_link("br-somebody") && rules.contains("-A INPUT -s 10.9.9.9/32 -j DROP"), "{rules}");
    assert_eq!(ground.there(&["cat", "/var/lib/somebody/file"]).as_deref(), Some("kept\n"));

    let again = engine.perform(EngineWork::Reset).await.unwrap();
    assert_eq!(again.code, "unchanged", "{again:?}");
}
