//! Logging in: one token for all requests to a server, fetched by one login at a time.
//!
//! Only durations count, measured here: the server's clock may say what it likes.

use std::{cell::RefCell, collections::HashMap, future::Future, rc::Rc, time::Duration};

use actix_rt::time::Instant;
use tokio::sync::Mutex;

use crate::{config::LONGEST_DURATION, error::Error, nacos::v1::LoginAnswer};

/// A token is renewed when this share of its life has passed.
const RENEW_AFTER: f64 = 0.85;
/// The pause after a login that failed while the token still lives.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);
/// The shortest time between two logins at one server that refused tokens cause. A heartbeat every 5 s finds a new token
/// before its instance is unhealthy.
const REPLACEMENT_PAUSE: Duration = Duration::from_secs(10);
/// The pause after refused credentials; each further refusal doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// User name and password. Shown nowhere.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// The login of one Registry.
pub(crate) struct Session {
    credentials: Option<Credentials>,
    state: RefCell<State>,
    /// Held by the one login under way.
    login: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// By server. Those of a cluster may take each other's tokens, or not; while two are in use, each keeps its own.
    servers: HashMap<String, Access>,
    logins: u64,
    /// At which server the last login failed for another reason than its credentials.
    failed: Option<(String, Error)>,
}

/// Our access to one server.
#[derive(Default)]
struct Access {
    token: Option<Token>,
    /// None once a login has succeeded.
    refused: Option<RefusedLogin>,
    /// When a refused token last caused a login.
    replaced_at: Option<Instant>,
    /// How many such logins there were since the server last accepted a token.
    vain_replacements: u32,
}

/// What came of our credentials at one server.
struct RefusedLogin {
    error: Error,
    /// In a row.
    times: u32,
    /// Not to be tried again before.
    until: Instant,
}

#[derive(Clone)]
struct Token {
    text: Rc<str>,
    since: Instant,
    renew_at: Instant,
    ends_at: Instant,
    /// The server has served a request with it.
    is_accepted: bool,
}

/// What is known of the login.
#[derive(Debug, Clone)]
pub(crate) struct SessionHealth {
    pub(crate) logged_in: bool,
    pub(crate) logins: u64,
    pub(crate) last_error: Option<Error>,
}

impl Session {
    pub(crate) fn new(username: Option<String>, password: Option<String>) -> Self {
        let credentials = username.zip(password).map(|(username, password)| Credentials { username, password });
        Session { credentials, state: RefCell::default(), login: Mutex::new(()) }
    }

    /// The token to send to `server`; none without credentials. `login` is called when there is none that will last, by
    /// one caller while the others wait for its outcome: a server that hangs costs them one timeout and not one each.
    /// Should it fail, the old token serves until its end.
    ///
    /// # Errors
    /// What `login` says. Refused credentials are not tried again before a growing pause is over: the last refusal is
    /// repeated meanwhile.
    pub(crate) async fn token<F>(
        &self,
        server: &str,
        login: impl FnOnce(Credentials) -> F,
    ) -> Result<Option<Rc<str>>, Error>
    where
        F: Future<Output = Result<LoginAnswer, Error>>,
    {
        let Some(credentials) = &self.credentials else { return Ok(None) };
        if let Some(token) = self.lasting_token(server) {
            return Ok(Some(token));
        }
        let renewed = self.renew(server, None, || login(credentials.clone())).await;
        renewed.or_else(|error| self.living_token(server).ok_or(error)).map(Some)
    }

    /// The token to repeat a request with that `server` refused, although it carried the token `refused`. No text tells
    /// whether that token has become bad or gives no such right, so one that was accepted before is replaced by a new
    /// login: once for all requests that were refused with it, and not again before [`REPLACEMENT_PAUSE`] is over. None
    /// where the refusal stands.
    ///
    /// # Errors
    /// Why there is no new token, if a login has failed.
    pub(crate) async fn replacement<F>(
        &self,
        server: &str,
        refused: &str,
        login: impl FnOnce(Credentials) -> F,
    ) -> Result<Option<Rc<str>>, Error>
    where
        F: Future<Output = Result<LoginAnswer, Error>>,
    {
        let Some(credentials) = &self.credentials else { return Ok(None) };
        if let Some(token) = self.other_token(server, refused) {
            return Ok(Some(token));
        }
        if !self.may_replace(server) {
            return self.refused_login(server).map_or(Ok(None), Err);
        }
        self.renew(server, Some(refused), || login(credentials.clone())).await.map(Some)
    }

    /// `refused`: the token that the server has just refused.
    async fn renew<F>(&self, server: &str, refused: Option<&str>, login: impl FnOnce() -> F) -> Result<Rc<str>, Error>
    where
        F: Future<Output = Result<LoginAnswer, Error>>,
    {
        let logins_before = self.state.borrow().logins;
        let _one_at_a_time = self.login.lock().await;
        let token = match refused {
            Some(refused) => self.other_token(server, refused),
            None => self.lasting_token(server),
        };
        if let Some(token) = token {
            return Ok(token);
        }
        self.refused_lately(server)?;
        self.failed_since(server, logins_before)?;
        let outcome = login().await;
        self.remember(server, refused.is_some(), outcome)
    }

    /// Whether there is any use in asking this server.
    ///
    /// # Errors
    /// Its last refusal of our credentials, until it is time to try them again.
    pub(crate) fn check(&self, server: &str) -> Result<(), Error> {
        match self.living_token(server) {
            Some(_) => Ok(()),
            None => self.refused_lately(server),
        }
    }

    /// This server refused the last login.
    pub(crate) fn is_refused(&self, server: &str) -> bool {
        self.refused_login(server).is_some()
    }

    /// The server has served a request with this token.
    pub(crate) fn note_accepted(&self, server: &str, accepted: &str) {
        let mut state = self.state.borrow_mut();
        let Some(access) = state.servers.get_mut(server) else { return };
        if let Some(token) = access.token.as_mut().filter(|token| &*token.text == accepted) {
            token.is_accepted = true;
            access.vain_replacements = 0;
        }
    }

    pub(crate) fn is_needed(&self) -> bool {
        self.credentials.is_some()
    }

    pub(crate) fn health(&self) -> SessionHealth {
        let state = self.state.borrow();
        let refused = state.servers.values().filter_map(|access| access.refused.as_ref());
        SessionHealth {
            logged_in: self.is_logged_in(),
            logins: state.logins,
            last_error: refused.max_by_key(|refused| refused.until).map(|last| last.error.clone()),
        }
    }

    /// At one server at least.
    fn is_logged_in(&self) -> bool {
        let now = Instant::now();
        self.state.borrow().servers.values().any(|access| access.token.as_ref().is_some_and(|token| token.ends_at > now))
    }

    /// One that need not be renewed yet.
    fn lasting_token(&self, server: &str) -> Option<Rc<str>> {
        self.token_if(server, |token| token.renew_at > Instant::now())
    }

    /// One that the server still takes.
    fn living_token(&self, server: &str) -> Option<Rc<str>> {
        self.token_if(server, |token| token.ends_at > Instant::now())
    }

    /// One that is there instead of `refused`.
    fn other_token(&self, server: &str, refused: &str) -> Option<Rc<str>> {
        self.token_if(server, |token| &*token.text != refused && token.ends_at > Instant::now())
    }

    fn token_if(&self, server: &str, is_wanted: impl Fn(&Token) -> bool) -> Option<Rc<str>> {
        let state = self.state.borrow();
        let token = state.servers.get(server)?.token.as_ref();
        token.filter(|token| is_wanted(token)).map(|token| token.text.clone())
    }

    fn may_replace(&self, server: &str) -> bool {
        self.state.borrow().servers.get(server).is_none_or(Access::may_replace)
    }

    fn refused_login(&self, server: &str) -> Option<Error> {
        self.state.borrow().servers.get(server)?.refused.as_ref().map(|refused| refused.error.clone())
    }

    fn refused_lately(&self, server: &str) -> Result<(), Error> {
        let state = self.state.borrow();
        let refused = state.servers.get(server).and_then(|access| access.refused.as_ref());
        refused.filter(|refused| refused.until > Instant::now()).map_or(Ok(()), |refused| Err(refused.error.clone()))
    }

    /// The failure of a login at `server` that this caller has waited for.
    fn failed_since(&self, server: &str, logins_before: u64) -> Result<(), Error> {
        let state = self.state.borrow();
        match &state.failed {
            Some((at, error)) if at == server && state.logins != logins_before => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn remember(
        &self,
        server: &str,
        is_replacement: bool,
        outcome: Result<LoginAnswer, Error>,
    ) -> Result<Rc<str>, Error> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.logins += 1;
        state.failed = None;
        let access = state.servers.entry(server.to_owned()).or_default();
        match outcome {
            Ok(answer) => {
                access.note_replacement(is_replacement);
                access.refused = None;
                let token = Token::new(answer);
                let text = token.text.clone();
                access.token = Some(token);
                Ok(text)
            }
            Err(error) => {
                access.delay_renewal();
                match error {
                    Error::Unauthorized { .. } => {
                        access.note_replacement(is_replacement);
                        access.refuse(error.clone());
                    }
                    _ => state.failed = Some((server.to_owned(), error.clone())),
                }
                Err(error)
            }
        }
    }
}

impl Access {
    /// Whether a refusal of the present token may cause a login. A token that was never accepted is no better the next
    /// time, as a rule: its user lacks the right.
    fn may_replace(&self) -> bool {
        let last = match &self.token {
            Some(token) if !token.is_accepted => Some(token.since),
            _ => self.replaced_at,
        };
        last.is_none_or(|last| last.elapsed() >= doubled(REPLACEMENT_PAUSE, self.vain_replacements))
    }

    fn note_replacement(&mut self, is_replacement: bool) {
        if is_replacement {
            self.replaced_at = Some(Instant::now());
            self.vain_replacements += 1;
        }
    }

    fn delay_renewal(&mut self) {
        if let Some(token) = &mut self.token {
            token.renew_at = token.renew_at.max(Instant::now() + RENEWAL_PAUSE).min(token.ends_at);
        }
    }

    fn refuse(&mut self, error: Error) {
        let times = self.refused.as_ref().map_or(0, |refused| refused.times);
        let until = Instant::now() + doubled(FIRST_PAUSE, times);
        self.refused = Some(RefusedLogin { error, times: times + 1, until });
    }
}

impl Token {
    fn new(answer: LoginAnswer) -> Self {
        let since = Instant::now();
        let life = Duration::from_secs(answer.token_ttl.max(1).unsigned_abs()).min(LONGEST_DURATION);
        let (renew_at, ends_at) = (since + life.mul_f64(RENEW_AFTER), since + life);
        Token { text: answer.access_token.into(), since, renew_at, ends_at, is_accepted: false }
    }
}

/// A pause that has been doubled so many times.
fn doubled(pause: Duration, times: u32) -> Duration {
    pause.saturating_mul(1 << times.min(10)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::Operation;

    fn session() -> Session {
        Session::new(Some("me".into()), Some("hush".into()))
    }

    fn answer(token: &str, ttl: i64) -> LoginAnswer {
        LoginAnswer { access_token: token.into(), token_ttl: ttl, global_admin: false }
    }

    #[actix::test]
    async fn many_callers_make_one_login() {
        let (session, logins) = (session(), Cell::new(0));
        let ask = || {
            session.token("a:1", |_| async {
                actix_rt::task::yield_now().await;
                logins.set(logins.get() + 1);
                Ok(answer("t", 100))
            })
        };
        let tokens = futures_util::future::join_all((0..64).map(|_| ask())).await;
        assert!(tokens.iter().all(|token| token.as_ref().unwrap().as_deref() == Some("t")));
        assert_eq!(logins.get(), 1);
    }

    fn denied(operation: Operation, reason: &str) -> Error {
        Error::Unauthorized { operation, server: "a:1".into(), reason: reason.into() }
    }

    /// A session with a token that the server has accepted.
    async fn accepted(token: &str) -> Session {
        let session = session();
        session.token("a:1", |_| async { Ok(answer(token, 1000)) }).await.unwrap();
        session.note_accepted("a:1", token);
        session
    }

    async fn replace(session: &Session, refused: &str, by: &str) -> Option<Rc<str>> {
        session.replacement("a:1", refused, |_| async { Ok(answer(by, 1000)) }).await.unwrap()
    }

    async fn keep(session: &Session, refused: &str) -> Option<Rc<str>> {
        session.replacement("a:1", refused, |_| async { panic!("no login is due") }).await.unwrap()
    }

    #[actix::test]
    async fn many_requests_whose_token_is_refused_make_one_login() {
        let (session, logins) = (accepted("old").await, Cell::new(0));
        let replace = || {
            session.replacement("a:1", "old", |_| async {
                actix_rt::task::yield_now().await;
                logins.set(logins.get() + 1);
                Ok(answer("new", 1000))
            })
        };
        let tokens = futures_util::future::join_all((0..64).map(|_| replace())).await;
        assert!(tokens.iter().all(|token| token.as_ref().unwrap().as_deref() == Some("new")));
        assert_eq!(logins.get(), 1);
        assert_eq!(keep(&session, "old").await.as_deref(), Some("new"), "an answer that comes late");
    }

    #[actix::test]
    async fn refused_tokens_cause_one_login_in_ten_seconds() {
        tokio::time::pause();
        let session = accepted("1").await;
        assert_eq!(replace(&session, "1", "2").await.as_deref(), Some("2"));
        session.note_accepted("a:1", "2");
        tokio::time::advance(REPLACEMENT_PAUSE - Duration::from_millis(1)).await;
        assert_eq!(keep(&session, "2").await, None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(replace(&session, "2", "3").await.as_deref(), Some("3"));
    }

    #[actix::test]
    async fn the_refusal_of_a_brand_new_token_stands_and_of_one_never_accepted_for_longer_and_longer() {
        tokio::time::pause();
        let session = session();
        session.token("a:1", |_| async { Ok(answer("0", 1000)) }).await.unwrap();
        for (number, seconds) in [10, 20, 40, 60, 60].into_iter().enumerate() {
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert_eq!(keep(&session, &number.to_string()).await, None);
            tokio::time::advance(Duration::from_millis(1)).await;
            let next = (number + 1).to_string();
            assert_eq!(replace(&session, &number.to_string(), &next).await.as_deref(), Some(&*next));
        }
        session.note_accepted("a:1", "5");
        tokio::time::advance(REPLACEMENT_PAUSE).await;
        assert!(replace(&session, "5", "6").await.is_some());
    }

    #[actix::test]
    async fn a_refused_token_serves_on_while_there_is_no_other() {
        tokio::time::pause();
        let session = accepted("old").await;
        let down = || Error::Unreachable { operation: Operation::Login, server: "a:1".into(), reason: "down".into() };
        assert_eq!(session.replacement("a:1", "old", |_| async { Err(down()) }).await, Err(down()));
        let kept = session.token("a:1", |_| async { panic!("no login is due") }).await;
        assert_eq!(kept.unwrap().as_deref(), Some("old"), "it may lack but one right");

        let wrong = || denied(Operation::Login, "wrong");
        assert_eq!(session.replacement("a:1", "old", |_| async { Err(wrong()) }).await, Err(wrong()), "at once");
        tokio::time::advance(FIRST_PAUSE).await;
        let refused = session.replacement("a:1", "old", |_| async { panic!("no login is due") }).await;
        assert_eq!(refused, Err(wrong()), "that is the reason");
        assert_eq!(session.check("a:1"), Ok(()));
    }

    #[actix::test]
    async fn each_server_has_a_token_of_its_own() {
        let session = session();
        let first = session.token("a:1", |_| async { Ok(answer("a", 100)) }).await.unwrap().unwrap();
        session.token("b:1", |_| async { Ok(answer("b", 100)) }).await.unwrap();
        session.note_accepted("b:1", &first);
        let kept = |server| session.token(server, |_| async { panic!("no login is due") });
        assert_eq!(kept("a:1").await.unwrap().as_deref(), Some("a"));
        assert_eq!(kept("b:1").await.unwrap().as_deref(), Some("b"));
    }

    #[actix::test]
    async fn refused_credentials_are_not_tried_in_a_loop() {
        let session = session();
        let refused = || denied(Operation::Login, "wrong");
        let logins = Cell::new(0);
        for _ in 0..10 {
            let outcome = session
                .token("a:1", |_| async {
                    logins.set(logins.get() + 1);
                    Err(refused())
                })
                .await;
            assert_eq!(outcome, Err(refused()));
        }
        assert_eq!(logins.get(), 1);
        assert_eq!(session.token("b:1", |_| async { Ok(answer("b", 100)) }).await.unwrap().as_deref(), Some("b"));
        assert_eq!(session.check("a:1"), Err(refused()), "another server's login says nothing of this one");
    }

    #[actix::test]
    async fn a_token_that_lives_for_ever_is_one() {
        let session = session();
        session.token("a:1", |_| async { Ok(answer("t", i64::MAX)) }).await.unwrap();
        session.token("a:1", |_| async { panic!("no login is due") }).await.unwrap();
    }

    #[actix::test]
    async fn a_login_that_hangs_costs_one_timeout_however_many_wait() {
        let (session, logins) = (session(), Cell::new(0));
        let late =
            || Error::Timeout { operation: Operation::Login, server: "a:1".into(), after: Duration::from_secs(3) };
        let ask = |server| {
            session.token(server, |_| async {
                actix_rt::task::yield_now().await;
                logins.set(logins.get() + 1);
                Err(late())
            })
        };
        let outcomes = futures_util::future::join_all((0..64).map(|_| ask("a:1"))).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Err(late())));
        assert_eq!(logins.get(), 1);
        let _ = futures_util::future::join(ask("a:1"), ask("b:1")).await;
        assert_eq!(logins.get(), 3, "another time, and at another server, it may be well");
    }

    #[actix::test]
    async fn a_token_that_cannot_be_renewed_serves_until_its_end() {
        tokio::time::pause();
        let session = session();
        session.token("a:1", |_| async { Ok(answer("old", 100)) }).await.unwrap();
        let down = || Error::Unreachable { operation: Operation::Login, server: "a:1".into(), reason: "down".into() };
        tokio::time::advance(Duration::from_secs(85)).await;
        let kept = session.token("a:1", |_| async { Err(down()) }).await;
        assert_eq!(kept.unwrap().as_deref(), Some("old"));
        session.token("a:1", |_| async { panic!("not again at once") }).await.unwrap();
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(session.token("a:1", |_| async { Err(down()) }).await, Err(down()));
    }

    #[actix::test]
    async fn without_credentials_nobody_logs_in() {
        let session = Session::new(None, None);
        assert_eq!(session.token("a:1", |_| async { panic!("no login is due") }).await, Ok(None));
    }
}
