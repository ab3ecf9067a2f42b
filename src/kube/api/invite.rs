//! Join credentials: a bootstrap token for each node that joins, of which the API server keeps a Secret.
//!
//! - It is for one node, whose name is its label; minting again for that node revokes the one before.
//! - It is revoked once a Node of that name registered that was not there when it was minted (by the Node's uid: no clock is
//!   asked), and when the coordinator no longer waits for the join, by this process's monotonic clock.
//! - The Secret's own `expiration` is by the wall clock of the API server, which is this Pi's: it has none of its own until it
//!   heard of the time, and may jump by years then. A jump ahead ends a token early, and the join is tried again with another; a
//!   jump back would keep it alive for long, which is why we count too.
//! - What an earlier run left is found by its label and treated the same: its time begins anew, or a join under way would be for
//!   nothing.
//!
//! Sources: kubernetes.io, "Authenticating with Bootstrap Tokens" (the Secret's form, the group prefix) and `kubeadm join`; for
//! k3s its `pkg/cli/token` (the same Secrets, group `system:bootstrappers:k3s:default-node-token`).

use std::sync::PoisonError;
use std::time::Duration;

use beehive_cluster::coordinator::limit_ms;
use beehive_cluster::kube::{JoinCredential, KubeError};
use beehive_mqtt::NodeName;
use beehive_mqtt::coordinator::StepKind;
use serde_json::json;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::calls::{CallError, SECRETS, Session, error};
use super::objects::Bare;
use crate::engine::token::BootstrapToken;

/// How long a credential opens anything: as long as the coordinator waits for the join that it was minted for (`limit_ms`).
pub(super) const LIFETIME: Duration = Duration::from_millis(limit_ms(StepKind::Join, 0));

/// Which node a Secret of ours is for.
const LABEL: &str = "beehive/joins";

/// The uid of the Node of that name when it was minted; empty if there was none.
const BEFORE: &str = "beehive/node-before";

/// Where the secret is put into its Secret, and as long as it.
const PLACE: &str = "THE-SECRET-HERE!";

/// What a token is made of.
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The groups to whose bindings k3s and kubeadm give the right to join. No server has bindings for both.
const GROUPS: &str = "system:bootstrappers:kubeadm:default-node-token,system:bootstrappers:k3s:default-node-token";

/// A token that is out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invitation {
    /// The name of its Secret.
    secret: String,
    /// See [`BEFORE`].
    before: String,
    /// The uid of the Node that was shown then; the view lags behind.
    shown: Option<String>,
    until: Instant,
}

/// Mints a token for `node`, and revokes what was minted for it before.
pub(super) async fn mint(
    session: &Session,
    node: &NodeName,
    shown: Option<String>,
) -> Result<JoinCredential, KubeError> {
    revoke(session, node).await.map_err(|error| error.kube())?;
    let before = match session.node(node).await {
        Ok(present) => present.metadata.uid,
        Err(error) if error.is(404) => String::new(),
        Err(error) => return Err(error.kube()),
    };
    let random = || error("internal", "the kernel gives no random bytes for a join credential");
    let id = random_text(6).ok_or_else(random)?;
    let access = session.client().access();
    let token = BootstrapToken {
        id: id.as_str().to_owned(),
        secret: random_text(16).ok_or_else(random)?,
        authority_pem_sha256: access.authority_pem_sha256.clone(),
        authority_key_sha256: access.authority_key_sha256.clone(),
    };
    let credential = token.credential().ok_or_else(|| error("internal", "a minted credential is none"))?;
    let secret = format!("bootstrap-token-{}", token.id);
    let lifetime = i64::try_from(LIFETIME.as_secs()).unwrap_or(i64::MAX);
    let ends = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second().saturating_add(lifetime));
    let ends = ends.map_err(|_| error("internal", "this Pi's clock is beyond all calendars"))?;
    let body = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret,
            "namespace": "kube-system",
            "labels": { LABEL: node.as_str() },
            "annotations": { BEFORE: before },
        },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "description": format!("beehive: lets {node} join, once"),
            "token-id": token.id,
            "token-secret": PLACE,
            "expiration": ends.to_string(),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": GROUPS,
        },
    });
    let invitation = Invitation { secret, before, shown, until: Instant::now() + LIFETIME };
    // the secret is written once, into memory that is overwritten
    let text = body.to_string();
    let (head, tail) =
        text.split_once(PLACE).ok_or_else(|| error("internal", "a Secret has no place for its secret"))?;
    let mut body = Zeroizing::new(String::with_capacity(text.len()));
    for part in [head, token.secret.as_str(), tail] {
        body.push_str(part);
    }
    // noted first: if the answer is lost, it is revoked all the same
    lock(session).insert(node.clone(), invitation);
    session.create_secret(&body).await.map_err(|error| error.kube())?;
    tracing::info!(%node, id = token.id, "a join credential was minted");
    Ok(credential)
}

/// Revokes all tokens of ours for `node`.
pub(super) async fn revoke(session: &Session, node: &NodeName) -> Result<(), CallError> {
    let mut secrets = Vec::new();
    let query = format!("labelSelector=beehive%2Fjoins%3D{node}");
    session.each(SECRETS, &query, |secret: Bare| secrets.push(secret.metadata.name)).await?;
    if let Some(invitation) = lock(session).get(node) {
        if !secrets.contains(&invitation.secret) {
            secrets.push(invitation.secret.clone());
        }
    }
    for secret in secrets {
        gone(session.delete_secret(&secret).await)?;
        tracing::info!(%node, secret, "a join credential was revoked");
    }
    lock(session).remove(node);
    Ok(())
}

/// Takes over what an earlier run left.
pub(super) async fn adopt(session: &Session) -> Result<(), CallError> {
    let mut found = Vec::new();
    session.each(SECRETS, "labelSelector=beehive%2Fjoins", |secret: Bare| found.push(secret.metadata)).await?;
    for mut meta in found {
        let Some(node) = meta.labels.get(LABEL).and_then(|node| node.parse::<NodeName>().ok()) else {
            gone(session.delete_secret(&meta.name).await)?;
            continue;
        };
        let before = meta.annotations.remove(BEFORE).unwrap_or_default();
        let until = Instant::now() + LIFETIME;
        lock(session).insert(node, Invitation { secret: meta.name, before, shown: None, until });
    }
    Ok(())
}

/// Revokes what was used, by the uids of the Nodes that are there, and what is too old.
pub(super) async fn sweep(session: &Session, uid: impl Fn(&NodeName) -> Option<String>) -> Result<(), CallError> {
    let now = Instant::now();
    let over: Vec<NodeName> = lock(session)
        .iter()
        .filter(|(node, invitation)| {
            let used = uid(node).is_some_and(|uid| uid != invitation.before && Some(&uid) != invitation.shown.as_ref());
            used || now >= invitation.until
        })
        .map(|(node, _)| node.clone())
        .collect();
    for node in over {
        revoke(session, &node).await?;
    }
    Ok(())
}

/// What is not there any more is deleted.
pub(super) fn gone(outcome: Result<(), CallError>) -> Result<(), CallError> {
    match outcome {
        Err(error) if error.is(404) => Ok(()),
        outcome => outcome,
    }
}

fn lock(session: &Session) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<NodeName, Invitation>> {
    session.invitations.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many random characters, each with the same chance.
fn random_text(length: usize) -> Option<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(length));
    let mut bytes = Zeroizing::new([0_u8; 32]);
    while text.len() < length {
        getrandom::fill(bytes.as_mut_slice()).ok()?;
        // 252 is the largest multiple of 36 in a byte
        for byte in bytes.iter().filter(|byte| **byte < 252).take(length - text.len()) {
            text.push(char::from(*ALPHABET.get(usize::from(*byte) % ALPHABET.len())?));
        }
    }
    Some(text)
}
