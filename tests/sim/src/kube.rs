//! Kubernetes: Node objects and cordons, served while the master's engine runs. A kubelet that dies is noticed after 40 s
//! only, and a Node that was deleted comes back when its kubelet starts anew.

use crate::world::{Happening, Kept, Pi, World};
use beehive_cluster::coordinator::Event;
use beehive_cluster::kube::{JoinCredential, KubeDone, KubeError, KubeNode, KubeView, KubeWork, Ready, Scheduling};
use beehive_mqtt::{BootId, ClusterId, NodeName, Text};
use std::collections::BTreeMap;

/// How long Kubernetes believes in a kubelet that it does not hear.
pub(crate) const BELIEVES_MS: u64 = 40_000;

#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) cordoned: bool,
    pub(crate) boot: BootId,
    pub(crate) heard: u64,
    /// The kubelet's.
    pub(crate) version: Text<32>,
}

#[derive(Debug, Default)]
pub(crate) struct Kube {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) nodes: BTreeMap<NodeName, Object>,
    pub(crate) minted: BTreeMap<NodeName, String>,
    pub(crate) count: u64,
    pub(crate) shown: Option<KubeView>,
    /// A drain of this node never ends in time.
    pub(crate) blocked: Option<NodeName>,
}

impl Kube {
    pub(crate) fn serves(&self, master: &Pi) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        master.on && master.running && master.kept == Kept::Member(cluster.clone())
    }

    pub(crate) fn is_ready(&self, now: u64, master: &Pi, pi: &Pi) -> bool {
        self.serves(master)
            && self.nodes.get(&pi.name).is_some_and(|node| node.boot == pi.boot() && now - node.heard < BELIEVES_MS)
    }

    pub(crate) fn cordoned(&self) -> Vec<NodeName> {
        self.nodes.iter().filter(|(_, node)| node.cordoned).map(|(name, _)| name.clone()).collect()
    }
}

impl World {
    fn view(&self) -> KubeView {
        if !self.kube.serves(&self.pis[0]) {
            return KubeView::default();
        }
        let node = |(name, node): (&NodeName, &Object)| KubeNode {
            node: name.clone(),
            ready: if self.now - node.heard < BELIEVES_MS { Ready::Yes } else { Ready::No },
            scheduling: if node.cordoned { Scheduling::Cordoned } else { Scheduling::Open },
            boot: Some(node.boot.clone()),
            version: node.version.clone(),
        };
        KubeView { cluster: self.kube.cluster.clone(), nodes: self.kube.nodes.iter().map(node).collect() }
    }

    /// Kubelets say that they live, and the coordinator sees what has changed.
    pub(crate) fn kube_look(&mut self) {
        if self.kube.serves(&self.pis[0]) {
            for pi in &self.pis {
                if pi.on && pi.running && Some(&pi.kept) == self.kube.cluster.clone().map(Kept::Member).as_ref() {
                    if pi.registers && self.now < pi.registers_at {
                        continue;
                    }
                    if pi.registers {
                        let object = self.kube.nodes.entry(pi.name.clone()).or_insert(Object {
                            cordoned: false,
                            boot: pi.boot(),
                            heard: self.now,
                            version: Text::new(),
                        });
                        object.boot = pi.boot();
                        object.version = pi.version.clone();
                        object.heard = self.now;
                    } else if let Some(object) = self.kube.nodes.get_mut(&pi.name) {
                        object.heard = self.now;
                    }
                }
            }
            let cluster = self.kube.cluster.clone().map(Kept::Member);
            for pi in &mut self.pis {
                if pi.on && pi.running && Some(&pi.kept) == cluster.as_ref() && self.now >= pi.registers_at {
                    pi.registers = false;
                }
            }
        }
        self.pods_come();
        let view = self.view();
        if self.coordinator.is_some() && self.kube.shown.as_ref() != Some(&view) {
            self.kube.shown = Some(view.clone());
            self.coordinate(Event::Kube(view));
        }
    }

    pub(crate) fn kube_begins(&mut self, token: u64, work: KubeWork) {
        match &work {
            KubeWork::Cordon(node) => self.asked_to_cordon.push(node.clone()),
            KubeWork::Uncordon(_)
            | KubeWork::Drain { .. }
            | KubeWork::DeleteNode(_)
            | KubeWork::MintCredential { .. } => {}
        }
        // as kubectl's does, a drain begins with a cordon
        if let KubeWork::Drain { node, .. } = &work {
            if self.kube.serves(&self.pis[0]) {
                if let Some(object) = self.kube.nodes.get_mut(node) {
                    object.cordoned = true;
                }
            }
        }
        let takes = match &work {
            KubeWork::Drain { node, deadline_ms } if self.kube.blocked.as_ref() == Some(node) => *deadline_ms,
            KubeWork::Drain { .. } => self.random.between(500, 8_000),
            _ => self.random.between(5, 300),
        };
        let life = self.life;
        self.later(takes, Happening::KubeEnds(life, token, work));
    }

    pub(crate) fn kube_ends(&mut self, life: u32, token: u64, work: KubeWork) {
        let outcome = self.kube_does(&work);
        self.event();
        self.note(|| format!("kube {work:?}: {}", if outcome.is_ok() { "done" } else { "failed" }));
        if life == self.life {
            self.kube_look();
            self.coordinate(Event::KubeEnded { token, outcome });
        }
    }

    fn kube_does(&mut self, work: &KubeWork) -> Result<KubeDone, KubeError> {
        let fail = |code, reason: &str| Err(KubeError { code, reason: Text::cut(reason) });
        if !self.kube.serves(&self.pis[0]) {
            return fail("unreachable", "the API server does not answer");
        }
        if self.random.hits(self.faults.kube) {
            self.fault("API server");
            return if self.random.below(2) == 0 {
                fail("unreachable", "the API server restarts")
            } else {
                fail("internal", "etcd says no")
            };
        }
        match work {
            KubeWork::Cordon(node) | KubeWork::Uncordon(node) => match self.kube.nodes.get_mut(node) {
                Some(object) => {
                    object.cordoned = matches!(work, KubeWork::Cordon(_));
                    if object.cordoned {
                        self.is_closed(node);
                    }
                    if matches!(work, KubeWork::Uncordon(_)) {
                        self.of_shutdown.remove(node);
                    }
                    if matches!(work, KubeWork::Uncordon(_)) && self.by_hand.contains(node) {
                        self.fail(&format!("{node} was cordoned by hand, and we uncordoned it"));
                    }
                    Ok(KubeDone::Done)
                }
                None => fail("not-found", "no such node"),
            },
            KubeWork::Drain { node, .. } => {
                if self.kube.blocked.as_ref() == Some(node) {
                    return fail("blocked-by-budget", "a budget holds its pods");
                }
                match self.kube.nodes.get(node) {
                    Some(object) if self.now - object.heard >= BELIEVES_MS => fail("not-ready", "nobody confirms"),
                    Some(object) => {
                        // opened by somebody meanwhile, it fills again
                        if object.cordoned {
                            self.orders.pods.remove(node);
                            self.is_closed(node);
                        }
                        Ok(KubeDone::Done)
                    }
                    None => fail("not-found", "no such node"),
                }
            }
            KubeWork::DeleteNode(node) => {
                self.kube.nodes.remove(node);
                self.orders.pods.remove(node);
                // a cordon goes with its Node
                self.by_hand.remove(node);
                Ok(KubeDone::Done)
            }
            KubeWork::MintCredential { node, cluster } => {
                if self.kube.cluster.as_ref() != Some(cluster) {
                    return fail("other-cluster", "serves another cluster");
                }
                self.kube.count += 1;
                let secret = format!("{cluster}/{node}/{}", self.kube.count);
                self.kube.minted.insert(node.clone(), secret.clone());
                Ok(KubeDone::Credential(JoinCredential::new(&secret).unwrap()))
            }
        }
    }
}
