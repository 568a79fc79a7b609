//! TLS settings: which roots are trusted, and what of *ring* is linked.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::config::Config;

/// TLS sessions kept for resumption; one host needs few.
const TLS_SESSIONS: usize = 8;

/// The TLS settings, made when the first https connection needs them.
#[derive(Debug)]
pub(super) struct TlsSetup {
    pub(super) extra_roots: Vec<CertificateDer<'static>>,
    pub(super) config: OnceLock<Arc<ClientConfig>>,
}

impl TlsSetup {
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.config.get_or_init(|| Arc::new(self.build())).clone()
    }

    fn build(&self) -> ClientConfig {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        roots.add_parsable_certificates(self.extra_roots.iter().cloned());
        let provider = Arc::new(provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::in_memory_sessions(TLS_SESSIONS);
        config
    }
}

/// Key exchanges, the preferred one first. P-256 is the one that every TLS 1.3 server must have
/// (RFC 8446 §9.1). X25519 makes a resumed handshake six times cheaper on a Pi Zero (15 instead of
/// 92 ms, emulated) and costs 40 kB; on 32-bit x86, where it saves little, the size counts for more.
const KEY_EXCHANGES: &[&dyn rustls::crypto::SupportedKxGroup] = &[
    #[cfg(not(target_arch = "x86"))]
    rustls::crypto::ring::kx_group::X25519,
    rustls::crypto::ring::kx_group::SECP256R1,
];

/// What a client without a certificate of its own needs of *ring*, and no more: naming
/// `default_provider()` would link 70 kB of signing code and curves, of 1.2 MB in all.
fn provider() -> rustls::crypto::CryptoProvider {
    use rustls::crypto::ring::ALL_CIPHER_SUITES;
    rustls::crypto::CryptoProvider {
        cipher_suites: ALL_CIPHER_SUITES.to_vec(),
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

/// Randomness from *ring*, and no key of our own.
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

/// Bytes that no one can guess; `None` when the system has none to give.
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
pub(super) fn extra_roots(config: &Config) -> Result<Vec<CertificateDer<'static>>, String> {
    let Some(path) = &config.ssl_cert_file else {
        return Ok(Vec::new());
    };
    let bad = |why: String| format!("SSL_CERT_FILE: {}: {why}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|e| bad(e.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("holds no certificate in PEM form".into()));
    }
    Ok(certificates)
}
