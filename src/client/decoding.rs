//! Decodes answers that a proxy changed: compressed, in another charset, with a byte order mark, or a redirection.
//!
//! Nacos answers plain UTF-8. A gateway in between may answer differently, even if the request did not ask for it. The
//! caller then gets either the decoded answer or an error that says what is wrong. Limits apply to the decoded size, so
//! that a small answer cannot inflate without end.
//!
//! A redirect is never followed: the login would go to an address that is not configured. The error says where
//! it leads.

use std::{io::Read, str::FromStr as _};

use awc::http::{
    header::{HeaderMap, HeaderName, CONTENT_ENCODING, CONTENT_TYPE, LOCATION},
    StatusCode, Uri,
};
use encoding_rs::Encoding;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// The body as UTF-8, limited to `limit` bytes. A body that cannot be decoded, or that belongs to a redirection of a
/// request for `path`, is replaced by a line of text that says so.
///
/// The text in place of a body becomes part of an error, since no operation accepts it.
pub(super) fn decode(status: StatusCode, headers: &HeaderMap, body: Vec<u8>, path: &str, limit: usize) -> Vec<u8> {
    let location = if status.is_redirection() { header(headers, LOCATION) } else { None };
    if let Some(location) = location {
        return redirection(location, path).into_bytes();
    }
    let inflated = match header(headers, CONTENT_ENCODING) {
        None => inflate("", body, limit),
        // The encoding that was applied last is named last.
        Some(encodings) => encodings.rsplit(',').try_fold(body, |body, encoding| inflate(encoding, body, limit)),
    };
    match inflated {
        Ok(body) => to_utf8(body, header(headers, CONTENT_TYPE).unwrap_or_default()),
        Err(problem) => problem.into_bytes(),
    }
}

/// A header as text, if it is one.
fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Says where a redirection leads and what to do. Leaves user and query out, because they may contain a token.
fn redirection(location: &str, path: &str) -> String {
    let target = Uri::from_str(location).ok().and_then(|to| Some((without_secrets(&to)?, server_of(&to, path))));
    let Some((target, server)) = target else {
        return "a redirection to an address that cannot be read".into();
    };
    match server {
        Some(server) => format!("set {server} as the address: it redirects to {target}"),
        None => format!("it redirects to {target}; set an address without a gateway or login page in front of it"),
    }
}

/// Scheme, host, port and path of a redirection.
fn without_secrets(to: &Uri) -> Option<String> {
    match (to.scheme_str(), to.host()) {
        (Some(scheme), Some(host)) => Some(format!("{scheme}://{host}:{}{}", port(to)?, to.path())),
        _ => Some(to.path().to_owned()),
    }
}

/// The address of a server, with its context path, for which a request for `path` leads to `to`.
fn server_of(to: &Uri, path: &str) -> Option<String> {
    let context_path = to.path().strip_suffix(path)?;
    Some(format!("{}://{}:{}{context_path}", to.scheme_str()?, to.host()?, port(to)?))
}

/// The port, or the default of the scheme.
fn port(to: &Uri) -> Option<u16> {
    to.port_u16().or(match to.scheme_str()? {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    })
}

/// Undoes one encoding. Also recognises gzip without its header, because JSON never begins like gzip.
fn inflate(encoding: &str, body: Vec<u8>, limit: usize) -> Result<Vec<u8>, String> {
    const GZIP: &[u8] = &[0x1f, 0x8b];
    match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "identity" | "gzip" | "x-gzip" if body.starts_with(GZIP) => {
            read(MultiGzDecoder::new(&body[..]), "gzip", limit)
        }
        "" | "identity" | "gzip" | "x-gzip" => Ok(body),
        "deflate" if is_zlib(&body) => read(ZlibDecoder::new(&body[..]), "deflate", limit),
        "deflate" => read(DeflateDecoder::new(&body[..]), "deflate", limit),
        other => Err(format!("{} bytes in the encoding {other:?}, which was not requested", body.len())),
    }
}

/// Whether the body begins with a zlib header. Some servers send `deflate` without it.
fn is_zlib(body: &[u8]) -> bool {
    matches!(*body, [first, second, ..] if first & 0x0f == 8 && u16::from_be_bytes([first, second]) % 31 == 0)
}

/// # Errors
/// A text for the user, if the body is corrupt or too long.
fn read(inflated: impl Read, encoding: &str, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    match inflated.take(limit as u64 + 1).read_to_end(&mut body) {
        Ok(length) if length > limit => Err(format!("{encoding} of more than {limit} bytes")),
        Ok(_) => Ok(body),
        Err(error) => Err(format!("corrupt {encoding}: {error}")),
    }
}

/// A byte order mark takes precedence over the header. Valid UTF-8 is UTF-8, whatever the header says.
fn to_utf8(mut body: Vec<u8>, content_type: &str) -> Vec<u8> {
    if let Some((encoding, length)) = Encoding::for_bom(&body) {
        if encoding == encoding_rs::UTF_8 {
            body.drain(..length);
            return body;
        }
        return encoding.decode_without_bom_handling(&body[length..]).0.into_owned().into_bytes();
    }
    match charset(content_type) {
        Some(encoding) if !encoding.is_ascii_compatible() || std::str::from_utf8(&body).is_err() => {
            encoding.decode_without_bom_handling(&body).0.into_owned().into_bytes()
        }
        _ => body,
    }
}

/// `None` for UTF-8 and for unknown charsets.
fn charset(content_type: &str) -> Option<&'static Encoding> {
    let mut parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, label) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    Encoding::for_label(label.trim().trim_matches('"').as_bytes()).filter(|encoding| *encoding != encoding_rs::UTF_8)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use awc::http::header::HeaderValue;
    use flate2::{
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
        Compression,
    };

    use super::*;

    const LIMIT: usize = 1000;
    const PATH: &str = "/v1/ns/instance";

    fn decoded(headers: &[(HeaderName, &str)], body: impl Into<Vec<u8>>) -> String {
        let status = if headers.iter().any(|(name, _)| name == LOCATION) { 302 } else { 200 };
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        let body = decode(StatusCode::from_u16(status).unwrap(), &headers, body.into(), PATH, LIMIT);
        String::from_utf8(body).expect("UTF-8")
    }

    fn encoded(encoding: &str, body: impl Into<Vec<u8>>) -> String {
        decoded(&[(CONTENT_ENCODING, encoding)], body)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn compressed_bodies_are_inflated() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(b"ok").unwrap();
        raw.write_all(b"ok").unwrap();
        let zlib = zlib.finish().unwrap();
        assert_eq!(encoded("gzip", gzip(b"ok")), "ok");
        assert_eq!(encoded("X-GZIP", gzip(b"ok")), "ok");
        assert_eq!(encoded("", gzip(b"ok")), "ok", "recognised without a header");
        assert_eq!(encoded("gzip, gzip", gzip(&gzip(b"ok"))), "ok");
        assert_eq!(encoded("gzip", "ok"), "ok", "the header is wrong");
        assert_eq!(encoded("deflate, gzip", gzip(&zlib)), "ok", "the last encoding is undone first");
        assert_eq!(encoded("deflate", zlib), "ok");
        assert_eq!(encoded("deflate", raw.finish().unwrap()), "ok");
    }

    #[test]
    fn a_body_that_cannot_be_inflated_becomes_a_text_about_it() {
        let whole = gzip(b"ok");
        assert!(encoded("gzip", &whole[..whole.len() - 9]).starts_with("corrupt gzip"));
        assert_eq!(encoded("gzip", gzip(&[b' '; LIMIT])).len(), LIMIT);
        assert_eq!(encoded("gzip", gzip(&[b' '; LIMIT + 1])), "gzip of more than 1000 bytes");
        let unknown = encoded("br", [0x8f, 0x00, 0x80]);
        assert_eq!(unknown, r#"3 bytes in the encoding "br", which was not requested"#);
    }

    #[test]
    fn any_charset_becomes_utf_8() {
        let of = |content_type: &str, body: &[u8]| decoded(&[(CONTENT_TYPE, content_type)], body);
        assert_eq!(of("text/html;charset=ISO-8859-1", b"r\xe9serv\xe9"), "réservé");
        assert_eq!(of(r#"application/json; Charset="GBK""#, b"\xb6\xa9\xb5\xa5"), "订单");
        assert_eq!(of("text/plain; charset=utf-16le", b"o\0k\0"), "ok");
        assert_eq!(of("text/plain; charset=ISO-8859-1", "réservé".as_bytes()), "réservé", "the header is wrong");
        for body in ["\u{feff}{}".as_bytes(), b"\xff\xfe{\0}\0", b"\xfe\xff\0{\0}"] {
            assert_eq!(of("application/json", body), "{}");
        }
    }

    #[test]
    fn a_redirection_says_where_it_leads_and_what_to_do() {
        let to = |location: &str| decoded(&[(LOCATION, location)], "<html>Moved</html>");
        assert_eq!(
            to("https://nacos.example/nacos/v1/ns/instance?accessToken=hush"),
            "set https://nacos.example:443/nacos as the address: \
             it redirects to https://nacos.example:443/nacos/v1/ns/instance"
        );
        let login = to("http://me:hush@sso:8080/login?token=hush");
        assert!(login.starts_with("it redirects to http://sso:8080/login; set an address"), "{login}");
        assert!(to("/nacos/").contains("/nacos/; set"), "{}", to("/nacos/"));
        assert!(to("::").contains("cannot be read"));
    }
}
