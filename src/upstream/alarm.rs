//! TLS errors in the operator's words, and whether a retry can help.
//!
//! A bad certificate or protocol is as bad at the next try, so there is nothing to wait for. The one exception is a
//! wrong clock, which a time server corrects soon after the start.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::call::CALL;
use super::tls::is_ca;

/// A clock that shows less was never set: this version is from 2026-11-01.
const SANE_CLOCK: Duration = Duration::from_secs(1_793_491_200);

/// The most names of a certificate that are shown.
const NAMES_SHOWN: usize = 4;

/// Turns the error that ended a handshake into words, and notes in the call if a retry is hopeless.
pub(super) fn handshake_failed(error: io::Error) -> ureq::Error {
    let Some((text, never)) = inside(&error).map(in_words) else {
        return error.into();
    };
    CALL.with_borrow_mut(|call| call.never = never);
    io::Error::other(text).into()
}

/// The words for an error of TLS; `None` if it is another one.
pub(super) fn words_of(error: &io::Error) -> Option<String> {
    inside(error).map(|error| in_words(error).0)
}

fn inside(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// The words, and whether a retry is hopeless.
fn in_words(error: &Error) -> (String, bool) {
    use AlertDescription as A;
    let text = match error {
        Error::InvalidCertificate(why) => return certificate(why),
        Error::NoCertificatesPresented => "it shows no certificate".into(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS; is it http?".into()
        }
        Error::PeerIncompatible(_) => {
            "it has no version of TLS (1.2, 1.3) or no cipher in common with alvus".into()
        }
        Error::AlertReceived(
            alert @ (A::HandshakeFailure | A::ProtocolVersion | A::InsufficientSecurity),
        ) => format!(
            "it refused the TLS handshake ({}): \
             no version or cipher in common, or it wants a client's certificate",
            spaced(alert)
        ),
        Error::AlertReceived(A::UnrecognisedName) => {
            "it does not know the host of the target (TLS alert: unrecognised name)".into()
        }
        Error::AlertReceived(A::CertificateRequired) => {
            "it wants a client's certificate, and alvus has none".into()
        }
        Error::AlertReceived(alert) => {
            return (format!("it ended TLS (alert: {})", spaced(alert)), false);
        }
        Error::FailedToGetRandomBytes => {
            return ("the system has no randomness to give".into(), false);
        }
        // Bytes were lost or changed on the way.
        other => {
            return (
                format!("what it sends is not valid TLS ({})", spaced(other)),
                false,
            );
        }
    };
    (text, true)
}

fn certificate(why: &CertificateError) -> (String, bool) {
    use CertificateError as C;
    let text = match why {
        C::NotValidYetContext { time, not_before } => {
            let from = date(*not_before);
            let text = format!("its certificate is not valid yet, only from {from} on");
            return (text + &clock(*time), false);
        }
        C::ExpiredContext { time, not_after } => {
            let until = date(*not_after);
            let text = format!("its certificate expired on {until}");
            return (text + &clock(*time), was_set(*time));
        }
        C::NotValidForNameContext {
            expected,
            presented,
        } => {
            let shown = &presented[..presented.len().min(NAMES_SHOWN)];
            let of = match shown {
                [] => "no host".to_string(),
                names => names.iter().map(|n| host(n)).collect::<Vec<_>>().join(", "),
            };
            format!(
                "its certificate is not valid for {} but for {of}: \
                 another host, or a captive portal in its place?",
                expected.to_str()
            )
        }
        C::UnknownIssuer => "its certificate is not signed by a CA that alvus knows: \
            a CA of its own (name its file in SSL_CERT_FILE), or a captive portal in its place?"
            .into(),
        why if is_ca(why) => "its certificate is a CA's (openssl req -x509 makes such): \
            list exactly this certificate in SSL_CERT_FILE, or give the server one that the CA signed"
            .into(),
        C::InvalidPurposeContext { .. } => "its certificate is not for servers".into(),
        C::BadSignature => "the signature of its certificate or handshake is wrong".into(),
        C::UnsupportedSignatureAlgorithmContext { .. }
        | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its certificate is signed in a way that alvus does not accept \
             (expected: ECDSA P-256, P-384, or RSA of 2048 bits or more, with SHA-256 or more)"
                .into()
        }
        C::BadEncoding => "its certificate cannot be read".into(),
        C::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(why) => format!("its certificate is not accepted ({})", spaced(why)),
            None => "its certificate is not accepted".into(),
        },
        other => format!("its certificate is not accepted ({})", spaced(other)),
    };
    (text, true)
}

/// The name in `DnsName("a.test")`, as rustls shows one.
fn host(shown: &str) -> &str {
    shown.split('"').nth(1).unwrap_or(shown)
}

/// Whether a clock that says this can be right.
fn was_set(time: UnixTime) -> bool {
    Duration::from_secs(time.as_secs()) >= SANE_CLOCK
}

fn clock(time: UnixTime) -> String {
    let what = match was_set(time) {
        true => "is it right?",
        false => "set it: no certificate can be valid then",
    };
    format!("; this machine's clock says {}: {what}", date(time))
}

fn date(time: UnixTime) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

/// Rust's `BadCertificateStatus(…)` as people write it: bad certificate status.
fn spaced(what: &dyn std::fmt::Debug) -> String {
    let name = format!("{what:?}");
    let end = name.find(|c: char| !c.is_ascii_alphanumeric());
    let mut text = String::new();
    for c in name[..end.unwrap_or(name.len())].chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn only_a_clock_that_is_wrong_is_waited_for() {
        let now = SANE_CLOCK.as_secs() + 1;
        let expired = |time, not_after| CertificateError::ExpiredContext {
            time: at(time),
            not_after: at(not_after),
        };
        let early = |time, not_before| CertificateError::NotValidYetContext {
            time: at(time),
            not_before: at(not_before),
        };
        for (why, never) in [
            (expired(now, now - 1), true),
            (expired(now - 2, now - 3), false),
            (early(0, now), false),
            (early(now, now + 86_400), false), // a clock that stood still while the board was off
            (CertificateError::UnknownIssuer, true),
        ] {
            assert_eq!(certificate(&why).1, never, "{why:?}");
        }
    }

    #[test]
    fn names_of_rust_types_are_written_as_words() {
        for error in [
            Error::AlertReceived(AlertDescription::HandshakeFailure),
            Error::AlertReceived(AlertDescription::Unknown(200)),
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            Error::InvalidMessage(InvalidMessage::MessageTooLarge),
            Error::PeerMisbehaved(rustls::PeerMisbehaved::TooMuchEarlyDataReceived),
            Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered),
            Error::General("x".into()),
            CertificateError::UnknownIssuer.into(),
            CertificateError::Revoked.into(),
            CertificateError::Other(rustls::OtherError(std::sync::Arc::new(
                webpki::Error::UnsupportedCertVersion,
            )))
            .into(),
        ] {
            let text = in_words(&error).0;
            let camel = text
                .as_bytes()
                .windows(2)
                .any(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase());
            assert!(
                !camel && !text.contains("Other") && text.len() > 15,
                "{text}"
            );
        }
    }
}
