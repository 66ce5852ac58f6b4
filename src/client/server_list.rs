//! Fetches the list of servers from a URL, such as an address server of Nacos.
//!
//! The page has one server per line, as `host`, `host:port` or a URL; empty lines and lines that begin with `#` are
//! skipped. It is fetched at the configured interval, and every second until there is a first list.
//!
//! A page that cannot be read changes nothing. Keeping a server that is gone does less harm than losing a server that
//! exists: requests to it fail, and another server comes into use.

use std::{rc::Rc, str::FromStr as _, time::Duration};

use actix_rt::time::sleep;
use awc::http::{uri::PathAndQuery, Method, Uri};
use slog::{info, warn};

use super::{nacos::Nacos, transport::Auth};
use crate::{
    config::ServerAddress,
    error::{Error, Operation},
    wire::exchange::Request,
};

/// The interval until the first list has been fetched.
const RETRY: Duration = Duration::from_secs(1);
/// The default of the Java client.
const DEFAULT_PORT: u16 = 8848;
/// In bytes. Host names have at most 253. A longer line would fill the log.
const MAX_LINE: usize = 512;

/// Fetches the list of servers at each `interval`, for ever.
pub(crate) async fn refresh_server_list(nacos: Rc<Nacos>, url: String, context_path: String, interval: Duration) {
    let mut has_succeeded = true;
    let endpoint = ServerAddress::redacted_endpoint(&url);
    loop {
        let outcome = nacos.ask_endpoint(&url, &context_path).await;
        match &outcome {
            Ok(()) if !has_succeeded => info!(nacos.log, "fetched server list again"; "endpoint" => endpoint),
            Err(error) if has_succeeded => {
                warn!(nacos.log, "failed to fetch server list, keeping the previous one";
                    "endpoint" => endpoint, "error" => %error);
            }
            _ => {}
        }
        has_succeeded = outcome.is_ok();
        sleep(if nacos.servers.all().is_empty() { RETRY.min(interval) } else { interval }).await;
    }
}

impl Nacos {
    /// Fetches the page once, and replaces the list.
    ///
    /// # Errors
    /// Any failure of the request, and [`Error::Unreadable`] for a page that is no list. The previous list stays.
    async fn ask_endpoint(&self, url: &str, context_path: &str) -> Result<(), Error> {
        let request =
            Request { method: Method::GET, path: "", query: String::new(), form: None, form_may_be_query: false };
        let endpoint = ServerAddress::redacted_endpoint(url);
        let _permit = self.transport.permit(Operation::ServerList).await;
        let client = self.servers.new_client(&ServerAddress::parse_endpoint(url)?);
        let answer = self.transport.send(&client, &page_of(url)?, &request, Auth::default(), self.deadline()).await;
        let answer = answer.map_err(|no_answer| no_answer.into_error(Operation::ServerList, endpoint))?;
        if answer.status != 200 {
            let (status, body) = (answer.status, answer.excerpt());
            return Err(Error::Refused { operation: Operation::ServerList, server: endpoint.into(), status, body });
        }
        let addresses = read_list(&String::from_utf8_lossy(&answer.body), context_path).map_err(|reason| {
            Error::Unreadable { operation: Operation::ServerList, server: endpoint.into(), reason }
        })?;
        self.servers.replace(addresses);
        Ok(())
    }
}

/// Path and query of an endpoint.
fn page_of(url: &str) -> Result<String, Error> {
    let url = Uri::from_str(url).map_err(|error| Error::invalid("endpoint", error.to_string()))?;
    // A URL without a path has the path "/". Of those with a query, as `http://nacos?a=1`, only `Display` shows it.
    Ok(url.path_and_query().map_or_else(|| "/".to_owned(), PathAndQuery::to_string))
}

/// Parses a list in the form that [`Config::at_endpoint`](crate::Config::at_endpoint) describes. One malformed line
/// invalidates the whole list: otherwise a truncated page would drop servers that are still there.
///
/// # Errors
/// What is wrong with the page.
pub(crate) fn read_list(page: &str, context_path: &str) -> Result<Vec<ServerAddress>, String> {
    let lines = page.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<_> = lines.collect();
    match lines[..] {
        [] => Err("it contains no server".into()),
        [only] if !only.contains(['.', ':']) && only.len() <= MAX_LINE => {
            Err(format!("its only entry is {only:?}; write it with a port or a dot if it is a server"))
        }
        _ => lines.into_iter().map(|line| read_line(line, context_path)).collect(),
    }
}

/// Reads one address, with the default port if it has none.
fn read_line(line: &str, context_path: &str) -> Result<ServerAddress, String> {
    if line.len() > MAX_LINE {
        return Err(format!("it contains a line of {} bytes, which is not an address", line.len()));
    }
    if line.contains(['?', '#']) {
        let url = ServerAddress::redacted_endpoint(line);
        return Err(format!("{url:?} has a query or a fragment, so it is not the address of a server"));
    }
    ServerAddress::parse(line, context_path)
        .or_else(|error| ServerAddress::parse(&format!("{line}:{DEFAULT_PORT}"), context_path).map_err(|_| error))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_path_is_asked_for_its_root() {
        let urls = ["http://nacos/list?ns=a", "http://nacos:8080?ns=a", "http://nacos/", "http://nacos"];
        let pages = urls.map(|url| page_of(url).unwrap());
        assert_eq!(pages, ["/list?ns=a", "/?ns=a", "/", "/"]);
    }

    #[test]
    fn a_list_has_one_server_per_line_with_or_without_port() {
        let list = read_list("192.0.2.1:8850\r\n\n# a comment\nnacos-2\n", "/nacos").unwrap();
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1:8850", "nacos-2:8848"]);
    }

    #[test]
    fn a_page_that_is_not_a_list_is_rejected() {
        let long = "a.".repeat(500);
        let pages = [
            "",
            " \n# only\n# comments\n",
            "<html><body>not here</body></html>",
            "<!DOCTYPE html>\n<form action=\"/login\">\n</form>",
            r#"{"code":403,"message":"forbidden"}"#,
            "[]",
            "null",
            "404",
            "not found",
            "error: 500",
            "/nacos/login",
            "login/index.html",
            "http://login.example.com:80/?next=/nacos",
            "a:1\nb c",
            &long,
        ];
        for page in pages {
            let reason = read_list(page, "").expect_err(page);
            assert!(reason.len() < 1000, "{reason}");
        }
    }

    #[test]
    fn a_single_word_is_a_server_only_among_others_or_with_a_port() {
        let hosts =
            |page: &str| read_list(page, "").map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(hosts("nacos").is_err() && hosts("# the list\nForbidden\n").is_err());
        for (page, read) in [
            ("nacos:8850", "nacos:8850"),
            ("nacos.internal", "nacos.internal:8848"),
            ("192.0.2.1", "192.0.2.1:8848"),
            ("[::1]", "[::1]:8848"),
            ("http://nacos", "nacos:8848"),
        ] {
            assert_eq!(hosts(page).unwrap(), [read]);
        }
        assert_eq!(hosts("nacos-1\nnacos-2").unwrap(), ["nacos-1:8848", "nacos-2:8848"]);
    }
}
