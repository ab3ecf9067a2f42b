//! A way into the cluster for an operator: the certification request is written, the cluster's authority certifies it, and what
//! came of it is sealed to the key that the operator made for this one request. Nothing in it is secret without the
//! operator's own private key, which never came here.

use super::Text;
use crate::keys;
use crate::kube::{CertificateWanted, KubeError, Kubernetes};
use beehive_mqtt::console::{AccessContext, Ask, ConsoleRequest, MAX_ACCESS_BYTES, SealedAccess};
use beehive_mqtt::{CrewName, UserName};
use zeroize::Zeroizing;

/// The names of the document's fields, with what stands around them in JSON; a line break in a certificate takes two bytes.
const FRAME_BYTES: usize = 64;

fn error(code: &'static str, reason: std::fmt::Arguments<'_>) -> KubeError {
    KubeError { code, reason: Text::format(reason) }
}

/// Has a certificate issued for what `request` names, and seals it.
pub(super) async fn issue(
    kubernetes: &dyn Kubernetes,
    crew: &CrewName,
    user: &UserName,
    request: &ConsoleRequest,
) -> Result<SealedAccess, KubeError> {
    let Ask::Kubeconfig { seal, client, proof } = &request.ask else {
        return Err(error("internal", format_args!("this request asks for no certificate")));
    };
    let der =
        keys::certification_request(user, client, proof).map_err(|why| error("bad-proof", format_args!("{why}")))?;
    let wanted = CertificateWanted { user: user.clone(), request: request.id.clone(), der };
    let certified = kubernetes.certify(wanted).await?;
    // so large that it does not grow: what is grown leaves a copy behind
    let room = 2 * (certified.server.len() + certified.authority.len() + certified.certificate.len()) + FRAME_BYTES;
    let mut document = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *document, &certified)
        .map_err(|why| error("internal", format_args!("it cannot be written: {why}")))?;
    if document.len() > MAX_ACCESS_BYTES {
        let (bytes, most) = (document.len(), MAX_ACCESS_BYTES);
        return Err(error("too-long", format_args!("the cluster's certificates have {bytes} bytes, more than {most}")));
    }
    let context = AccessContext { crew, user, request: &request.id, client };
    let sealed = keys::seal(seal, &document, &context.bytes());
    sealed
        .map(|sealed| SealedAccess::new(&sealed))
        .map_err(|_| error("bad-key", format_args!("the key that the answer is to be sealed to is none")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::keys::{Opener, OperatorKey};
    use crate::kube::{Certified, KubeDone, KubeView, KubeWork, Observed};
    use beehive_cluster::blockers::Shown;
    use beehive_mqtt::NodeName;
    use beehive_mqtt::console::Mode;
    use beehive_mqtt::sign::SealKey;
    use futures_util::FutureExt;
    use futures_util::future::{BoxFuture, ready};
    use tokio::sync::watch;

    /// An authority that signs whatever it is given.
    struct Authority {
        certificate: String,
    }

    impl Kubernetes for Authority {
        fn certify(&self, wanted: CertificateWanted) -> BoxFuture<'static, Result<Certified, KubeError>> {
            assert_eq!((wanted.user.as_str(), wanted.request.as_str()), ("ann", "r-1"));
            let (server, authority) = ("https://pi-1:6443".to_owned(), "the authority".to_owned());
            ready(Ok(Certified { server, authority, certificate: self.certificate.clone() })).boxed()
        }

        fn perform(&self, _: KubeWork) -> BoxFuture<'static, Result<KubeDone, KubeError>> {
            unreachable!("nothing else is asked for")
        }

        fn look(&self, _: &NodeName) -> BoxFuture<'static, Result<Shown, KubeError>> {
            unreachable!("nothing else is asked for")
        }

        fn watch(&self) -> watch::Receiver<KubeView> {
            unreachable!("nothing else is asked for")
        }

        fn observe(&self, _: &NodeName, _: Observed<'_>) {}
    }

    fn request(key: &OperatorKey, seal: SealKey) -> ConsoleRequest {
        let user = "ann".parse().unwrap();
        let ask = Ask::Kubeconfig { seal, client: *key.public(), proof: key.proof(&user).unwrap() };
        ConsoleRequest { id: "r-1".parse().unwrap(), nonce: "c-1".parse().unwrap(), mode: Mode::Execute, ask }
    }

    fn issued(user: &str, certificate: &str, request: &ConsoleRequest) -> Result<SealedAccess, &'static str> {
        let authority = Authority { certificate: certificate.to_owned() };
        let (crew, user) = ("bee".parse().unwrap(), user.parse().unwrap());
        issue(&authority, &crew, &user, request).now_or_never().unwrap().map_err(|error| error.code)
    }

    #[test]
    fn what_opens_the_cluster_opens_with_the_one_key_for_the_one_request() {
        let (key, opener) = (OperatorKey::generate().unwrap(), Opener::from_seed(&[7; 32]).unwrap());
        let request = request(&key, opener.public());
        let sealed = issued("ann", "a certificate", &request).unwrap().bytes().unwrap();
        let (crew, user) = ("bee".parse().unwrap(), "ann".parse().unwrap());
        let context = AccessContext { crew: &crew, user: &user, request: &request.id, client: key.public() };
        let opened: Certified = serde_json::from_slice(&opener.open(&sealed, &context.bytes()).unwrap()).unwrap();
        assert_eq!((opened.server.as_str(), opened.certificate.as_str()), ("https://pi-1:6443", "a certificate"));
        // another key, user, request
        assert!(Opener::from_seed(&[8; 32]).unwrap().open(&sealed, &context.bytes()).is_err());
        let (bob, other) = ("bob".parse().unwrap(), "r-2".parse().unwrap());
        assert!(opener.open(&sealed, &AccessContext { user: &bob, ..context }.bytes()).is_err());
        assert!(opener.open(&sealed, &AccessContext { request: &other, ..context }.bytes()).is_err());
    }

    #[test]
    fn a_key_of_somebody_elses_certificates_that_are_too_long_and_keys_that_are_none_are_refused() {
        let (key, opener) = (OperatorKey::generate().unwrap(), Opener::from_seed(&[7; 32]).unwrap());
        let good = request(&key, opener.public());
        assert_eq!(issued("bob", "", &good).unwrap_err(), "bad-proof");
        assert_eq!(issued("ann", &"x".repeat(MAX_ACCESS_BYTES), &good).unwrap_err(), "too-long");
        assert_eq!(issued("ann", "", &request(&key, SealKey([0; 32]))).unwrap_err(), "bad-key");
        let longest = "x".repeat(MAX_ACCESS_BYTES - 75);
        assert!(issued("ann", &longest, &good).unwrap().bytes().unwrap().len() > 3_900);
        let other = ConsoleRequest { ask: Ask::Abort, ..good };
        assert_eq!(issued("ann", "", &other).unwrap_err(), "internal");
    }
}
