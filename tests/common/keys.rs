//! The keys of a test's crew: the folder that `beehive crew init` makes, and what it takes to sign as anybody in it.

#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use beehive::crew::keys::{CrewKeys, KeyFolder, NewCrew};
use beehive::keys::{Identity, Trust};
use beehive_mqtt::manifest::UserRole;
use beehive_mqtt::sign::Writer;
use beehive_mqtt::{CrewName, Payload, Topic, encode};
use std::path::PathBuf;

pub struct Keys {
    pub folder: tempfile::TempDir,
    keys: CrewKeys,
    crew: CrewName,
}

impl Keys {
    /// The first node is the master.
    pub fn new(crew: &str, nodes: &[&str], users: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let crew: CrewName = crew.parse().unwrap();
        let new = NewCrew {
            crew: crew.clone(),
            nodes: nodes.iter().map(|name| name.parse().unwrap()).collect(),
            users: users.iter().map(|name| (name.parse().unwrap(), UserRole::Operator)).collect(),
        };
        let keys = KeyFolder::new(folder.path()).init(&new).unwrap();
        Self { folder, keys, crew }
    }

    pub fn node_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join("nodes").join(name)
    }

    pub fn user_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join("operators").join(name)
    }

    pub fn node(&self, name: &str) -> Trust {
        self.keys.node(&name.parse().unwrap()).unwrap().trust(None).unwrap()
    }

    pub fn user(&self, name: &str) -> Trust {
        self.keys.user(&name.parse().unwrap()).unwrap().trust(None).unwrap()
    }

    pub fn coordinator(&self) -> Trust {
        self.node(self.keys.manifest().coordinator.as_str())
    }

    fn writer(&self, topic: &Topic) -> Identity {
        match topic.writer() {
            Writer::Node(node) => self.keys.node(node).unwrap(),
            Writer::Coordinator => self.keys.node(&self.keys.manifest().coordinator).unwrap(),
            Writer::User(user) => self.keys.user(user).unwrap(),
            Writer::Crew => panic!("the crew's key signs manifests alone"),
        }
    }

    /// A message as the topic's writer signs it.
    pub fn signed<P: Payload>(&self, topic: &Topic, payload: &P) -> Vec<u8> {
        encode(payload, &topic.name(&self.crew), &self.writer(topic).sign).unwrap()
    }
}
