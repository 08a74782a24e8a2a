//! Decides which requests are answered.
//!
//! A page that only this host can reach is protected from other sites' web pages, which may be open in a
//! browser on this host: a name of theirs that resolves to this host is not one of this host's names, and
//! their requests name their origin. A page that others can reach is protected by a secret in its address.

use axum::http::{HeaderMap, Method, StatusCode, header};
use std::{io, net::IpAddr};

/// The size of a secret in bytes.
const TOKEN_BYTES: usize = 16;

/// Returns a new secret that can be part of an address.
///
/// # Errors
/// If the system does not provide random numbers.
pub(super) fn token() -> io::Result<String> {
    let mut random = [0; TOKEN_BYTES];
    getrandom::fill(&mut random)?;
    Ok(data_encoding::HEXLOWER.encode(&random))
}

/// Checks a request. Returns its path without the secret, or the reason for refusing it.
///
/// # Errors
/// The status to answer with.
pub(super) fn admit<'a>(
    method: &Method,
    path: &'a str,
    headers: &HeaderMap,
    token: Option<&str>,
) -> Result<&'a str, StatusCode> {
    let path = match token {
        None => path,
        Some(token) => without(path, token).ok_or(StatusCode::NOT_FOUND)?,
    };
    let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or_default());
    let host = text(header::HOST).ok_or(StatusCode::BAD_REQUEST)?;
    if token.is_none() && !is_this_host(host) {
        return Err(StatusCode::FORBIDDEN);
    }
    let is_own = |origin: &str| origin == format!("http://{host}") || origin == format!("https://{host}");
    if text(header::ORIGIN).is_some_and(|origin| !is_own(origin)) {
        return Err(StatusCode::FORBIDDEN);
    }
    // A link on another site may be followed, but the page must not be embedded there.
    let sent = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_foreign = !matches!(sent("sec-fetch-site"), None | Some("none" | "same-origin"));
    let is_link = sent("sec-fetch-mode") == Some("navigate") && sent("sec-fetch-dest") == Some("document");
    if is_foreign && !is_link {
        return Err(StatusCode::FORBIDDEN);
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    Ok(path)
}

/// Returns what follows the secret in a path. Takes the same time for every wrong secret.
fn without<'a>(path: &'a str, token: &str) -> Option<&'a str> {
    let (first, _) = path.strip_prefix('/')?.split_once('/')?;
    let differences = first.bytes().zip(token.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    (first.len() == token.len() && differences == 0).then(|| &path[first.len() + 1..])
}

/// Returns whether a `Host` header names this host's loopback interface. The port may differ, for example if
/// it belongs to a tunnel.
fn is_this_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(method: &Method, path: &str, sent: &[(&str, &str)], token: Option<&str>) -> u16 {
        let headers = sent.iter().map(|(name, value)| {
            (header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap())
        });
        match admit(method, path, &headers.collect(), token) {
            Ok(_) => 200,
            Err(status) => status.as_u16(),
        }
    }

    #[test]
    fn a_local_page_answers_only_to_names_of_this_host() {
        for (host, status) in [
            ("localhost:8060", 200),
            ("LOCALHOST", 200),
            ("127.0.0.1:9000", 200),
            ("[::1]:8060", 200),
            ("evil.example:8060", 403),
            ("127.0.0.1.evil.example", 403),
            ("192.0.2.1", 403),
            ("", 403),
        ] {
            assert_eq!(admitted(&Method::GET, "/", &[("host", host)], None), status, "{host}");
        }
        assert_eq!(admitted(&Method::GET, "/", &[], None), 400);
    }

    #[test]
    fn other_sites_cannot_read_or_embed_the_page() {
        let host = ("host", "localhost:8060");
        for (sent, status) in [
            (&[("origin", "http://localhost:8060")][..], 200),
            (&[("origin", "http://localhost:8061")], 403),
            (&[("origin", "http://evil.example")], 403),
            (&[("origin", "null")], 403),
            (&[("sec-fetch-site", "same-origin")], 200),
            (&[("sec-fetch-site", "none")], 200),
            (&[("sec-fetch-site", "cross-site")], 403),
            (&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")], 403),
            (
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "document"),
                ],
                200,
            ),
            (
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "iframe"),
                ],
                403,
            ),
        ] {
            let sent = [&[host], sent].concat();
            assert_eq!(admitted(&Method::GET, "/events", &sent, None), status, "{sent:?}");
        }
    }

    #[test]
    fn a_page_that_others_can_reach_needs_its_secret() {
        let token = token().unwrap();
        assert_eq!(token.len(), 2 * TOKEN_BYTES);
        assert_ne!(token, super::token().unwrap());
        let host = [("host", "lab.example:8060")];
        let status = |path: &str| admitted(&Method::GET, path, &host, Some(&token));
        assert_eq!(status(&format!("/{token}/")), 200);
        assert_eq!(status(&format!("/{token}/events")), 200);
        for path in ["/", "/events", "//", &format!("/{token}"), &format!("/{}/", &token[1..])] {
            assert_eq!(status(path), 404, "{path}");
        }
        assert_eq!(without(&format!("/{token}/events"), &token), Some("/events"));
    }

    #[test]
    fn nothing_can_be_changed() {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(admitted(&method, "/", &[("host", "localhost")], None), 405);
        }
        assert_eq!(admitted(&Method::HEAD, "/", &[("host", "localhost")], None), 200);
    }
}
