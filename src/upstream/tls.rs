//! TLS settings: the trusted roots, the order of ciphers, and the parts of *ring* that are linked.
//! `alarm.rs` puts TLS errors into words.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::ring::cipher_suite as s;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedCipherSuite,
};

use crate::config::{Config, Faults};

/// TLS sessions kept for resumption; one host needs few.
const TLS_SESSIONS: usize = 8;

/// The TLS settings, made when the first https connection needs them.
#[derive(Debug)]
pub(super) struct TlsSetup {
    pub(super) extra_roots: Vec<CertificateDer<'static>>,
    config: OnceLock<Arc<ClientConfig>>,
}

impl TlsSetup {
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.config.get_or_init(|| Arc::new(self.build())).clone()
    }

    pub(super) fn new(extra_roots: Vec<CertificateDer<'static>>) -> TlsSetup {
        TlsSetup {
            extra_roots,
            config: OnceLock::new(),
        }
    }

    fn build(&self) -> ClientConfig {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        roots.add_parsable_certificates(self.extra_roots.iter().cloned());
        let provider = Arc::new(provider(suites(has_fast_aes())));
        let verifier = Verifier {
            roots,
            listed: self.extra_roots.clone(),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::in_memory_sessions(TLS_SESSIONS);
        config
    }
}

/// The name that a certificate must be for; `None`: no certificate can be for this host.
pub(super) fn name(host: &str) -> Option<ServerName<'static>> {
    let host = host.trim_matches(['[', ']']);
    ServerName::try_from(host.to_string()).ok()
}

/// Verifies as rustls's own verifier, which would link code for revocation lists. It also trusts each certificate that
/// the operator listed, as it is. webpki would refuse some of those: one that may sign others (`CA:TRUE`) or has no
/// `subjectAltName`, as `openssl req -x509` makes them.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    listed: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::Error::InvalidCertificate;
        let parsed = ParsedCertificate::try_from(shown)?;
        let is_listed = || self.listed.contains(shown);
        match verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            ALGORITHMS.all,
        ) {
            // webpki checks the dates before it reports this.
            Err(InvalidCertificate(why)) if is_ca(&why) && is_listed() => {}
            signed => signed?,
        }
        match verify_server_name(&parsed, name) {
            Err(InvalidCertificate(why))
                if has_no_name(&why) && is_listed() && common_name_is(shown, &name.to_str()) => {}
            named => named?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, shown, signed, &ALGORITHMS)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, shown, signed, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// Whether webpki refused it because it may sign others.
pub(super) fn is_ca(why: &CertificateError) -> bool {
    let CertificateError::Other(other) = why else {
        return false;
    };
    matches!(
        other.0.downcast_ref(),
        Some(webpki::Error::CaUsedAsEndEntity)
    )
}

fn has_no_name(why: &CertificateError) -> bool {
    matches!(why, CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty())
}

/// Whether the one common name in the subject of this certificate is `name`.
fn common_name_is(shown: &CertificateDer<'_>, name: &str) -> bool {
    /// The object identifier 2.5.4.3 in DER. The string's tag, length and text follow it.
    const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
    let Ok(parsed) = webpki::EndEntityCert::try_from(shown) else {
        return false;
    };
    let subject = parsed.subject();
    let mut places = subject
        .windows(COMMON_NAME.len())
        .enumerate()
        .filter(|(_, piece)| *piece == COMMON_NAME)
        .map(|(at, _)| at + COMMON_NAME.len());
    let (Some(at), None) = (places.next(), places.next()) else {
        return false;
    };
    let Some([_, length, text @ ..]) = subject.get(at..) else {
        return false;
    };
    // A longer text would have its length in two bytes; no host name is so long.
    let text = text.get(..usize::from(*length)).unwrap_or_default();
    *length < 0x80 && text.eq_ignore_ascii_case(name.as_bytes())
}

/// Cipher suites, the cheapest for this machine first; a server that honours the client's order
/// takes that. Without AES instructions ChaCha20 is six times cheaper (Pi Zero, 1 kB up: 52 000
/// instead of 336 000 instructions). With them AES-128 is cheaper than AES-256, and as safe.
fn suites(fast_aes: bool) -> Vec<SupportedCipherSuite> {
    const AES: [SupportedCipherSuite; 6] = [
        s::TLS13_AES_128_GCM_SHA256,
        s::TLS13_AES_256_GCM_SHA384,
        s::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        s::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        s::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        s::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ];
    const CHACHA20: [SupportedCipherSuite; 3] = [
        s::TLS13_CHACHA20_POLY1305_SHA256,
        s::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        s::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    match fast_aes {
        true => [&AES[..], &CHACHA20].concat(),
        false => [&CHACHA20[..], &AES].concat(),
    }
}

/// Whether this CPU has AES-GCM instructions that *ring* uses. 32-bit ARM cannot be asked; ARMv6 and v7 have none.
fn has_fast_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Key exchanges, the preferred one first. Every TLS 1.3 server must have P-256 (RFC 8446 §9.1). X25519 makes a resumed
/// handshake six times cheaper on a Pi Zero (15 instead of 92 ms, emulated) and costs 40 kB. On 32-bit x86 it saves
/// little, so there it is left out for its size.
const KEY_EXCHANGES: &[&dyn rustls::crypto::SupportedKxGroup] = &[
    #[cfg(not(target_arch = "x86"))]
    rustls::crypto::ring::kx_group::X25519,
    rustls::crypto::ring::kx_group::SECP256R1,
];

/// Only the parts of *ring* that a client without a certificate needs: `default_provider()` would
/// link 70 kB more of signing code and curves.
fn provider(cipher_suites: Vec<SupportedCipherSuite>) -> rustls::crypto::CryptoProvider {
    rustls::crypto::CryptoProvider {
        cipher_suites,
        kx_groups: KEY_EXCHANGES.to_vec(),
        signature_verification_algorithms: ALGORITHMS,
        secure_random: &NoCertificate,
        key_provider: &NoCertificate,
    }
}

/// The signatures of today's web: all of rustls's but Ed25519, which no public CA uses.
static ALGORITHMS: rustls::crypto::WebPkiSupportedAlgorithms = {
    use rustls::SignatureScheme as S;
    use webpki::ring as alg;
    rustls::crypto::WebPkiSupportedAlgorithms {
        all: &[
            alg::ECDSA_P256_SHA256,
            alg::ECDSA_P256_SHA384,
            alg::ECDSA_P384_SHA256,
            alg::ECDSA_P384_SHA384,
            alg::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
            alg::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
            alg::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
            alg::RSA_PKCS1_2048_8192_SHA256,
            alg::RSA_PKCS1_2048_8192_SHA384,
            alg::RSA_PKCS1_2048_8192_SHA512,
        ],
        mapping: &[
            (
                S::ECDSA_NISTP384_SHA384,
                &[alg::ECDSA_P384_SHA384, alg::ECDSA_P256_SHA384],
            ),
            (
                S::ECDSA_NISTP256_SHA256,
                &[alg::ECDSA_P256_SHA256, alg::ECDSA_P384_SHA256],
            ),
            (
                S::RSA_PSS_SHA512,
                &[alg::RSA_PSS_2048_8192_SHA512_LEGACY_KEY],
            ),
            (
                S::RSA_PSS_SHA384,
                &[alg::RSA_PSS_2048_8192_SHA384_LEGACY_KEY],
            ),
            (
                S::RSA_PSS_SHA256,
                &[alg::RSA_PSS_2048_8192_SHA256_LEGACY_KEY],
            ),
            (S::RSA_PKCS1_SHA512, &[alg::RSA_PKCS1_2048_8192_SHA512]),
            (S::RSA_PKCS1_SHA384, &[alg::RSA_PKCS1_2048_8192_SHA384]),
            (S::RSA_PKCS1_SHA256, &[alg::RSA_PKCS1_2048_8192_SHA256]),
        ],
    }
};

/// Randomness from *ring*. There is no key of our own.
#[derive(Debug)]
struct NoCertificate;

impl rustls::crypto::SecureRandom for NoCertificate {
    fn fill(&self, buf: &mut [u8]) -> Result<(), rustls::crypto::GetRandomFailed> {
        use ring::rand::SecureRandom;
        ring::rand::SystemRandom::new()
            .fill(buf)
            .map_err(|_| rustls::crypto::GetRandomFailed)
    }
}

/// Random bytes; `None` when the system has none to give.
pub fn random() -> Option<[u8; 16]> {
    use rustls::crypto::SecureRandom;
    let mut bytes = [0; 16];
    NoCertificate.fill(&mut bytes).ok().map(|()| bytes)
}

impl rustls::crypto::KeyProvider for NoCertificate {
    fn load_private_key(
        &self,
        _: rustls::pki_types::PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn rustls::sign::SigningKey>, rustls::Error> {
        Err(rustls::Error::General("alvus shows no certificate".into()))
    }
}

/// The certificates of `SSL_CERT_FILE`.
pub(super) fn extra_roots(config: &Config) -> Result<Vec<CertificateDer<'static>>, Faults> {
    let Some(path) = &config.ssl_cert_file else {
        return Ok(Vec::new());
    };
    let bad = |why: String| Faults::from(format!("SSL_CERT_FILE: {}: {why}", path.display()));
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| bad(e.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("holds no certificate in PEM form".into()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(fast_aes: bool) -> Vec<String> {
        let suites = suites(fast_aes);
        suites.iter().map(|s| format!("{:?}", s.suite())).collect()
    }

    #[test]
    fn the_cheapest_cipher_of_each_version_comes_first() {
        for (fast_aes, order) in [
            (true, ["AES_128", "AES_256", "CHACHA20"]),
            (false, ["CHACHA20", "AES_128", "AES_256"]),
        ] {
            let names = names(fast_aes);
            for version in ["TLS13_", "TLS_ECDHE_RSA_WITH_", "TLS_ECDHE_ECDSA_WITH_"] {
                let those = names.iter().filter_map(|name| name.strip_prefix(version));
                let those: Vec<_> = those.collect();
                for (name, cipher) in those.iter().zip(order) {
                    assert!(name.starts_with(cipher), "{names:?}");
                }
                assert_eq!(those.len(), order.len());
            }
            assert_eq!(names.len(), rustls::crypto::ring::ALL_CIPHER_SUITES.len());
        }
    }
}
