//! TLS to the crew's broker: who it must be, and who we are.
//!
//! Facts it rests on: the crew's authority signs the broker's certificate and nothing else, and that bears
//! [`server_name`] whatever the broker's address (`crate::crew::tls`); rumqttc (0.25.1) asks for the address instead, so
//! the name is put in its place here. Of the machine's clock only one thing is wanted: that it shows 1970 or later.

use crate::crew::files;
use crate::crew::tls::{PrivateKey, server_name};
use beehive_mqtt::CrewName;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// What TLS needs, ready for use. It shows no key.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{0}; `beehive crew init` makes it, and it is copied to this machine with the others")]
    File(#[from] std::io::Error),
    /// A file holds something else.
    #[error("{file} holds no {what} in PEM ({why}); copy the file of this identity from the crew's folder again")]
    Content {
        /// The file's name.
        file: &'static str,
        /// What should be in it.
        what: &'static str,
        /// What the parser says. It never repeats the content.
        why: String,
    },
    /// The files do not fit together.
    #[error("tls.crt, tls.key and ca.crt cannot be used together ({0}); copy all files of this identity again")]
    Mismatch(String),
}

impl Tls {
    /// Reads `ca.crt`, `tls.crt` and `tls.key` in `dir`.
    ///
    /// # Errors
    /// Says which file is not as it should be.
    pub fn load(dir: &Path, crew: &CrewName) -> Result<Self, TlsError> {
        let authority = files::read(&dir.join("ca.crt"))?;
        let certificate = files::read(&dir.join("tls.crt"))?;
        let key = PrivateKey::new(files::read(&dir.join("tls.key"))?);
        Self::new(crew, &authority, &certificate, &key)
    }

    /// The same from PEM.
    ///
    /// # Errors
    /// Says which part is not as it should be.
    pub fn new(crew: &CrewName, authority: &str, certificate: &str, key: &PrivateKey) -> Result<Self, TlsError> {
        Self::with_time(crew, authority, certificate, key, Arc::new(DefaultTimeProvider))
    }

    fn with_time(
        crew: &CrewName,
        authority: &str,
        certificate: &str,
        key: &PrivateKey,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, TlsError> {
        let content = |file, what| {
            move |error: rustls::pki_types::pem::Error| TlsError::Content { file, what, why: error.to_string() }
        };
        let authority =
            CertificateDer::from_pem_slice(authority.as_bytes()).map_err(content("ca.crt", "certificate"))?;
        let certificate =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(content("tls.crt", "certificate"))?;
        // the parser's error could repeat what it met
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| TlsError::Content {
            file: "tls.key",
            what: "private key",
            why: "not shown".to_owned(),
        })?;
        let mismatch = |error: &dyn fmt::Display| TlsError::Mismatch(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(|error| mismatch(&error))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| mismatch(&error))?;
        let name = ServerName::try_from(server_name(crew)).map_err(|error| mismatch(&error))?;
        let config = ClientConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()
            .map_err(|error| mismatch(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(CrewBroker { verifier, name }))
            .with_client_auth_cert(vec![certificate], key)
            .map_err(|error| mismatch(&error))?;
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn transport(&self) -> rumqttc::Transport {
        rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(Arc::clone(&self.0)))
    }
}

/// Checks as rustls does, for the crew's name instead of the address.
#[derive(Debug)]
struct CrewBroker {
    verifier: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl ServerCertVerifier for CrewBroker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _address: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::tls::{Authority, Identity, Pair, identity};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConnection, ServerConfig, ServerConnection};
    use std::time::Duration;

    #[derive(Debug)]
    struct At(u64);

    impl TimeProvider for At {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
        }
    }

    fn crew() -> CrewName {
        "c1".parse().unwrap()
    }

    fn node() -> Pair {
        identity(&Identity::Node("n1".parse().unwrap())).unwrap()
    }

    /// Lets a client and a broker with this certificate shake hands, both at `seconds` since 1970.
    fn handshake(authority: &Pair, broker: &Pair, seconds: u64) -> Result<(), rustls::Error> {
        let node = node();
        let tls = Tls::with_time(&crew(), &authority.certificate, &node.certificate, &node.key, Arc::new(At(seconds)))
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(node.certificate.as_bytes()).unwrap()).unwrap();
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let server = ServerConfig::builder_with_details(provider, Arc::new(At(seconds)))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(broker.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(broker.key.expose().as_bytes()).unwrap(),
            )
            .unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        // whatever address rumqttc was given
        let mut client = ClientConnection::new(tls.0, ServerName::try_from("192.0.2.7").unwrap()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut wire = wire.as_slice();
            while !wire.is_empty() {
                server.read_tls(&mut wire).unwrap();
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut wire = wire.as_slice();
            while !wire.is_empty() {
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_clock_of_1970_will_do_and_so_will_one_of_the_year_9000() {
        let (authority, pair) = Authority::generate(&crew()).unwrap();
        let broker = authority.broker(&[]).unwrap();
        for seconds in [0, 10, 1_700_000_000, 4_102_444_800, 221_845_392_000] {
            handshake(&pair, &broker, seconds).unwrap_or_else(|error| panic!("at {seconds}: {error}"));
        }
    }

    #[test]
    fn a_certificate_that_began_later_would_shut_out_a_pi_without_time() {
        let (authority, pair) = Authority::generate(&crew()).unwrap();
        let broker = authority.broker(&[]).unwrap();
        // the day after the last: the clock is looked at indeed
        let error = handshake(&pair, &broker, 253_402_387_200).unwrap_err().to_string();
        assert!(error.contains("expired"), "{error}");
    }

    #[test]
    fn another_crews_broker_and_a_node_that_plays_the_broker_are_refused() {
        let (_, pair) = Authority::generate(&crew()).unwrap();
        let (stranger, _) = Authority::generate(&crew()).unwrap();
        let error = handshake(&pair, &stranger.broker(&[]).unwrap(), 10).unwrap_err().to_string();
        assert!(error.contains("invalid peer certificate"), "{error}");
        let error = handshake(&pair, &node(), 10).unwrap_err().to_string();
        assert!(error.contains("invalid peer certificate"), "{error}");
        let other: CrewName = "c2".parse().unwrap();
        let (authority, pair) = Authority::generate(&other).unwrap();
        let error = handshake(&pair, &authority.broker(&[]).unwrap(), 10).unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{error}");
    }

    #[test]
    fn files_that_are_not_there_or_hold_something_else_are_named_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tls::load(dir.path(), &crew()).unwrap_err().to_string();
        assert!(error.contains("ca.crt") && error.contains("crew init"), "{error}");
        let (_, pair) = Authority::generate(&crew()).unwrap();
        let garbage = PrivateKey::new("-----BEGIN PRIVATE KEY-----\nc2VjcmV0IQ=\n-----END".to_owned());
        let error = Tls::new(&crew(), &pair.certificate, &node().certificate, &garbage).unwrap_err().to_string();
        assert!(error.contains("tls.key") && !error.contains("c2Vj"), "{error}");
        let error = Tls::new(&crew(), &pair.certificate, &node().certificate, &node().key).unwrap_err().to_string();
        assert!(error.contains("cannot be used together"), "{error}");
    }
}
