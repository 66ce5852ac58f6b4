//! The list of servers from a URL, as an address server of Nacos gives it.

use std::{rc::Weak, time::Duration};

use actix_rt::time::sleep;
use awc::http::Method;
use slog::{info, warn};

use super::{exchange::Request, Nacos, Operation};
use crate::{config::ServerAddress, error::Error, registry::Desk};

/// Before the first list has come.
const RETRY: Duration = Duration::from_secs(1);
/// What the Java client takes for a server without a port.
const DEFAULT_PORT: u16 = 8848;

/// Asks for the list, over and over.
pub(crate) async fn keep_server_list(desk: Weak<Desk>, url: String) {
    let mut well = true;
    while let Some(present) = desk.upgrade() {
        let outcome = present.nacos.ask_endpoint(&url, &present.config.context_path).await;
        match &outcome {
            Ok(()) if !well => info!(present.log, "the server list can be had again"; "endpoint" => &url),
            Err(error) if well => {
                warn!(present.log, "no server list; the last one stays"; "endpoint" => &url, "error" => %error);
            }
            _ => {}
        }
        well = outcome.is_ok();
        let interval = present.config.endpoint_interval;
        let pause = if present.nacos.servers().all().is_empty() { RETRY.min(interval) } else { interval };
        drop(present);
        sleep(pause).await;
    }
}

impl Nacos {
    async fn ask_endpoint(&self, url: &str, context_path: &str) -> Result<(), Error> {
        let request = Request { method: Method::GET, path: "", query: String::new(), form: None };
        let _permit = self.transport.permit(Operation::ServerList).await;
        let client = self.servers.new_client();
        let answer = self.transport.send(&client, url, &request, None, self.deadline()).await;
        let answer = answer.map_err(|none| none.into_error(Operation::ServerList, url))?;
        if answer.status != 200 {
            let (status, body) = (answer.status, answer.excerpt());
            return Err(Error::Refused { operation: Operation::ServerList, server: url.into(), status, body });
        }
        let addresses = read_list(&String::from_utf8_lossy(&answer.body), context_path)
            .map_err(|reason| Error::Unreadable { operation: Operation::ServerList, server: url.into(), reason })?;
        self.servers.replace(addresses);
        Ok(())
    }
}

/// One `host` or `host:port` a line. One bad line makes the list no list: half a cluster would be taken for the whole.
fn read_list(text: &str, context_path: &str) -> Result<Vec<ServerAddress>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &str| {
        ServerAddress::parse(line, context_path)
            .or_else(|error| ServerAddress::parse(&format!("{line}:{DEFAULT_PORT}"), context_path).map_err(|_| error))
    };
    let addresses = lines.map(read).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    if addresses.is_empty() {
        return Err("it lists no server".into());
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_server_a_line_with_or_without_port() {
        let list = read_list("10.0.0.1:8850\r\n\n# a comment\nnacos-2\n", "/nacos").unwrap();
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1:8850", "nacos-2:8848"]);
    }

    #[test]
    fn a_page_is_no_list() {
        for page in ["", "<html><body>not here</body></html>", "a:1\nb c"] {
            assert!(read_list(page, "").is_err(), "{page:?}");
        }
    }
}
