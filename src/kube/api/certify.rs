//! Certificates for operators: the API server's own way (`certificates.k8s.io/v1`, since Kubernetes 1.19), by the signer for API
//! clients.
//!
//! - What is asked for carries the request's name, so that a repeat finds it. It is deleted when the certificate is there; what
//!   is left after a crash the server's own clean-up removes within a day.
//! - It is asked for [`LIFETIME_SECONDS`]. A server before 1.22 does not know that field and issues for a year; nobody can take such
//!   a certificate back but by another authority, that is, by a rebuild.
//! - Who has one is in the group [`OPERATORS`]. One binding, ours, makes that group administrators; deleting it ends what all
//!   certificates open.
//!
//! Sources: kubernetes.io, "Certificates and Certificate Signing Requests" (signer `kubernetes.io/kube-apiserver-client`, which
//! nothing approves by itself; `expirationSeconds`), "Using RBAC Authorization".

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use beehive_cluster::kube::KubeError;
use beehive_mqtt::NodeName;
use serde_json::{Value, json};

use super::calls::{CallError, Session, error};
use crate::keys::OPERATORS;
use crate::kube::{CertificateWanted, Certified};

/// A working day: who needs it tomorrow asks again, which is one command.
const LIFETIME_SECONDS: u32 = 12 * 3600;

/// How often the server is looked at; its signer takes well under a second, on a Pi some seconds.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const BINDING: &str = "beehive-operators";

/// Has a certificate issued. It ends when it is there; the caller sets the deadline.
pub(super) async fn certify(
    session: &Session,
    master: &NodeName,
    wanted: &CertificateWanted,
) -> Result<Certified, KubeError> {
    bind(session).await.map_err(|error| error.kube())?;
    let name = format!("beehive-{}", wanted.request);
    let path = format!("{REQUESTS}/{name}");
    let request = STANDARD.encode(pem(&wanted.der));
    let asked = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": { "name": name },
        "spec": {
            "request": request,
            "signerName": "kubernetes.io/kube-apiserver-client",
            "expirationSeconds": LIFETIME_SECONDS,
            "usages": ["digital signature", "client auth"],
        },
    });
    let mut present = match session.post(REQUESTS, &asked).await {
        Ok(made) => made,
        // asked for before our own crash
        Err(error) if error.is(409) => session.get::<Value>(&path).await.map_err(|error| error.kube())?,
        Err(failed) if failed.is(404) => {
            return Err(error(
                "refused",
                "this API server issues no certificates by certificates.k8s.io/v1: it is older than 1.19",
            ));
        }
        Err(error) => return Err(error.kube()),
    };
    if present.pointer("/spec/request").and_then(Value::as_str) != Some(request.as_str()) {
        return Err(error("refused", "another certificate was asked for under this request's name"));
    }
    if !has(&present, "Approved") {
        let approval = json!([{
            "type": "Approved",
            "status": "True",
            "reason": "BeehiveOperator",
            "message": format!("signed by operator {}, checked by the coordinator on {master}", wanted.user),
        }]);
        present["status"] = json!({ "conditions": approval });
        present = session.put(&format!("{path}/approval"), &present).await.map_err(|error| error.kube())?;
    }
    let certificate = loop {
        if has(&present, "Denied") || has(&present, "Failed") {
            return Err(error("refused", "the cluster's signer does not certify this key; see kubectl get csr"));
        }
        if let Some(certificate) = present.pointer("/status/certificate").and_then(Value::as_str) {
            break certificate.to_owned();
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        present = session.get(&path).await.map_err(|error| error.kube())?;
    };
    let odd = || error("refused", "the API server's certificate is no base64 of a PEM");
    let certificate =
        STANDARD.decode(certificate).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(odd)?;
    // it is issued, whether or not its object goes
    if let Err(error) = session.remove(&path).await {
        tracing::warn!("the request {name} stays at the API server until it removes it itself: {error}");
    }
    tracing::info!(user = %wanted.user, "the cluster's authority has certified an operator's key");
    let access = session.client().access();
    let server = address(&access.host, access.port, master);
    Ok(Certified { server, authority: access.authority_pem.clone(), certificate })
}

/// Makes our group administrators, once.
async fn bind(session: &Session) -> Result<(), CallError> {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": BINDING },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": OPERATORS }],
    });
    match session.post(BINDINGS, &binding).await {
        Err(error) if error.is(409) => Ok(()),
        other => other.map(drop),
    }
}

/// Whether it has a condition of this type.
fn has(request: &Value, kind: &str) -> bool {
    let conditions = request.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|conditions| conditions.iter().any(|condition| condition["type"] == kind))
}

/// Where others find the server that we may find on loopback.
fn address(host: &str, port: u16, master: &NodeName) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) if address.is_loopback() => format!("https://{master}:{port}"),
        Ok(IpAddr::V6(address)) => format!("https://[{address}]:{port}"),
        Ok(IpAddr::V4(address)) => format!("https://{address}:{port}"),
        Err(_) if host == "localhost" => format!("https://{master}:{port}"),
        Err(_) => format!("https://{host}:{port}"),
    }
}

fn pem(der: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE REQUEST-----\n".to_owned();
    for (index, digit) in STANDARD.encode(der).chars().enumerate() {
        // RFC 7468: 64 to a line
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(digit);
    }
    text.push_str("\n-----END CERTIFICATE REQUEST-----\n");
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_server_on_loopback_is_the_master_to_others() {
        let master = "pi-1".parse().unwrap();
        for (host, address_) in [
            ("127.0.0.1", "https://pi-1:6443"),
            ("::1", "https://pi-1:6443"),
            ("localhost", "https://pi-1:6443"),
            ("192.168.1.10", "https://192.168.1.10:6443"),
            ("fd00::1", "https://[fd00::1]:6443"),
            ("api.example.org", "https://api.example.org:6443"),
        ] {
            assert_eq!(address(host, 6443, &master), address_);
        }
    }

    #[test]
    fn lines_have_64_digits() {
        let text = pem(&[7; 100]);
        let lines: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lines[1..lines.len() - 1], [64, 64, 8]);
        assert!(text.ends_with("REQUEST-----\n"));
    }
}
