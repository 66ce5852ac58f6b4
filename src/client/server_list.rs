//! The list of servers from a URL, as an address server of Nacos gives it.

use std::{rc::Rc, time::Duration};

use actix_rt::time::sleep;
use awc::http::Method;
use slog::{info, warn};

use super::{nacos::Nacos, transport::Proof};
use crate::{
    config::ServerAddress,
    error::{Error, Operation},
    wire::exchange::Request,
};

/// Before the first list has come.
const RETRY: Duration = Duration::from_secs(1);
/// What the Java client takes for a server without a port.
const DEFAULT_PORT: u16 = 8848;
/// In bytes. No host name is longer than 253; what is longer is not worth a place in the log.
const LONGEST_LINE: usize = 512;

/// Asks the endpoint for the list of servers at each `interval`, for ever.
pub(crate) async fn refresh_server_list(nacos: Rc<Nacos>, url: String, context_path: String, interval: Duration) {
    let mut has_succeeded = true;
    let shown = ServerAddress::shown_endpoint(&url);
    loop {
        let outcome = nacos.ask_endpoint(&url, &context_path).await;
        match &outcome {
            Ok(()) if !has_succeeded => info!(nacos.log, "fetched the server list again"; "endpoint" => shown),
            Err(error) if has_succeeded => {
                warn!(nacos.log, "failed to fetch the server list, keeping the last one";
                    "endpoint" => shown, "error" => %error);
            }
            _ => {}
        }
        has_succeeded = outcome.is_ok();
        sleep(if nacos.servers.all().is_empty() { RETRY.min(interval) } else { interval }).await;
    }
}

impl Nacos {
    async fn ask_endpoint(&self, url: &str, context_path: &str) -> Result<(), Error> {
        let request =
            Request { method: Method::GET, path: "", query: String::new(), form: None, form_may_be_query: false };
        let shown = ServerAddress::shown_endpoint(url);
        let _permit = self.transport.permit(Operation::ServerList).await;
        let client = self.servers.new_client(&ServerAddress::of_endpoint(url)?);
        let answer = self.transport.send(&client, url, &request, Proof::default(), self.deadline()).await;
        let answer = answer.map_err(|none| none.into_error(Operation::ServerList, shown))?;
        if answer.status != 200 {
            let (status, body) = (answer.status, answer.excerpt());
            return Err(Error::Refused { operation: Operation::ServerList, server: shown.into(), status, body });
        }
        let addresses = read_list(&String::from_utf8_lossy(&answer.body), context_path)
            .map_err(|reason| Error::Unreadable { operation: Operation::ServerList, server: shown.into(), reason })?;
        self.servers.replace(addresses);
        Ok(())
    }
}

/// Reads the list that [`Config::at_endpoint`](crate::Config::at_endpoint) describes. One malformed line makes the whole page
/// no list: half a cluster would be taken for all of it.
fn read_list(page: &str, context_path: &str) -> Result<Vec<ServerAddress>, String> {
    let lines = page.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<_> = lines.collect();
    match lines[..] {
        [] => Err("it lists no server".into()),
        [only] if !only.contains(['.', ':']) && only.len() <= LONGEST_LINE => {
            Err(format!("{only:?} is its only entry, which needs a port or a dot to be taken for a server"))
        }
        _ => lines.into_iter().map(|line| read_line(line, context_path)).collect(),
    }
}

fn read_line(line: &str, context_path: &str) -> Result<ServerAddress, String> {
    if line.len() > LONGEST_LINE {
        return Err(format!("a line of {} bytes is no address", line.len()));
    }
    if line.contains(['?', '#']) {
        let shown = ServerAddress::shown_endpoint(line);
        return Err(format!("{shown:?} with something behind its path is the address of a page"));
    }
    ServerAddress::parse(line, context_path)
        .or_else(|error| ServerAddress::parse(&format!("{line}:{DEFAULT_PORT}"), context_path).map_err(|_| error))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_server_a_line_with_or_without_port() {
        let list = read_list("192.0.2.1:8850\r\n\n# a comment\nnacos-2\n", "/nacos").unwrap();
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1:8850", "nacos-2:8848"]);
    }

    #[test]
    fn a_page_is_no_list() {
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
            let refused = read_list(page, "").expect_err(page);
            assert!(refused.len() < 1000, "{refused}");
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
