//! The user agent of a client. It decides whether the client gets pushes and how names are written for it.
//!
//! Nacos pushes only to clients that it knows by their user agent, because other clients may not read the datagrams.
//! Nacos' `SwitchDomain` lists these clients, with their first version. The user agent is in the header `User-Agent`,
//! or else in `Client-Version`.

/// A client's kind and version, read from `Nacos-Java-Client:v1.4.6 …` (`ClientInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agent {
    text: String,
    kind: Option<&'static str>,
    version: [u32; 3],
}

const JAVA: &str = "Nacos-Java-Client";

/// Clients that get pushes, with the first version that does (`SwitchDomain.push…Version`).
///
/// `Nacos-C-Client:v1.0.0` therefore gets no pushes, as measured on Nacos 1.4.8, 2.5.1 and 3.0.3.
const PUSHED: [(&str, [u32; 3]); 5] = [
    (JAVA, [0, 1, 0]),
    ("Nacos-Go-Client", [0, 1, 0]),
    ("Nacos-DNS", [0, 4, 3]),
    ("Nacos-C-Client", [1, 0, 12]),
    ("Nacos-CSharp-Client", [0, 9, 0]),
];

impl Agent {
    /// Reads the header. An unknown client gets no pushes, and on 1.4 bare names.
    pub(crate) fn read(user_agent: &str) -> Self {
        let Some((kind, _)) = PUSHED.into_iter().find(|(kind, _)| user_agent.starts_with(kind)) else {
            return Agent { text: user_agent.to_owned(), ..Agent::default() };
        };
        let rest = user_agent[kind.len()..].trim_start_matches(":v").trim_start_matches(':');
        let mut numbers = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or("").split('.');
        let mut number = || numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Agent { text: user_agent.to_owned(), kind: Some(kind), version: [number(), number(), number()] }
    }

    /// The whole header.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn takes_pushes(&self) -> bool {
        PUSHED.into_iter().any(|(kind, first)| self.kind == Some(kind) && self.version >= first)
    }

    pub(crate) fn is_java(&self) -> bool {
        self.kind == Some(JAVA) && self.version >= [1, 0, 0]
    }

    /// Whether 1.4 writes names as `GROUP@@service` for this client: only for Java clients. Since 2.x every client gets
    /// grouped names.
    pub(crate) fn gets_grouped_names(&self) -> bool {
        self.is_java()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_agents_of_known_versions_take_pushes() {
        for pushed in [
            "Nacos-Java-Client:v1.4.6",
            "Nacos-Java-Client:v1.4.6 actix-nacos/0.1.0",
            "Nacos-Go-Client:v1.0.1",
            "Nacos-CSharp-Client:v1.0.0",
            "Nacos-DNS:v1.0.1",
            "Nacos-C-Client:v1.0.12",
        ] {
            assert!(Agent::read(pushed).takes_pushes(), "{pushed}");
        }
        for silent in
            ["actix-nacos/0.1.0", "Nacos-Python-Client:v1.0.0", "Nacos-C-Client:v1.0.0", "Nacos-Java-Client", ""]
        {
            assert!(!Agent::read(silent).takes_pushes(), "{silent}");
        }
        assert!(Agent::read("Nacos-Java-Client:v1.4.6 x").is_java());
    }
}
