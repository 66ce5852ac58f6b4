//! Logging in: one token for all requests to a server, fetched by one login at a time.
//!
//! Only durations count, measured here: the server's clock may say what it likes.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::{config::LONGEST_DURATION, error::Error, nacos::v1::LoginAnswer};

/// A token is renewed when this share of its life has passed.
const RENEW_AFTER: f64 = 0.85;
/// The pause after a login that failed while the token still lives.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);
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
    /// By server. Those of a cluster may take each other's, or not; while two are in use, each keeps its own.
    tokens: HashMap<String, Token>,
    logins: u64,
    /// By server. One of them may refuse what the others take.
    refused: HashMap<String, Refused>,
    /// At which server the last login failed for another reason than its credentials.
    failed: Option<(String, Error)>,
}

/// What came of our credentials at one server, until they are good for something there.
struct Refused {
    /// None once it has let us in.
    error: Option<Error>,
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
        F: std::future::Future<Output = Result<LoginAnswer, Error>>,
    {
        let Some(credentials) = &self.credentials else { return Ok(None) };
        if let Some(token) = self.lasting_token(server) {
            return Ok(Some(token));
        }
        let renewed = self.renew(server, || login(credentials.clone())).await;
        renewed.or_else(|error| self.living_token(server).ok_or(error)).map(Some)
    }

    async fn renew<F>(&self, server: &str, login: impl FnOnce() -> F) -> Result<Rc<str>, Error>
    where
        F: std::future::Future<Output = Result<LoginAnswer, Error>>,
    {
        let logins_before = self.state.borrow().logins;
        let _one_at_a_time = self.login.lock().await;
        if let Some(token) = self.lasting_token(server) {
            return Ok(token);
        }
        self.refused_lately(server)?;
        self.failed_since(server, logins_before)?;
        let outcome = login().await;
        self.remember(server, outcome)
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

    /// The server refused this token: it is not sent there again.
    pub(crate) fn forget(&self, server: &str, refused: &str) {
        let mut state = self.state.borrow_mut();
        if state.tokens.get(server).is_some_and(|token| &*token.text == refused) {
            state.tokens.remove(server);
        }
    }

    /// This server refused the last login.
    pub(crate) fn is_refused(&self, server: &str) -> bool {
        self.state.borrow().refused.get(server).is_some_and(|refused| refused.error.is_some())
    }

    /// The server refused a token that it has just given: another login would end the same way. As with refused
    /// credentials, the next one waits.
    pub(crate) fn forget_useless(&self, server: &str, refused: &str, error: &Error) {
        let since = self.state.borrow().tokens.get(server).filter(|token| &*token.text == refused).map(|t| t.since);
        self.forget(server, refused);
        if since.is_some_and(|since| since.elapsed() < FIRST_PAUSE) {
            self.state.borrow_mut().refuse(server, error);
        }
    }

    /// A token was good for something.
    pub(crate) fn note_accepted(&self, server: &str) {
        self.state.borrow_mut().refused.remove(server);
    }

    pub(crate) fn is_needed(&self) -> bool {
        self.credentials.is_some()
    }

    pub(crate) fn health(&self) -> SessionHealth {
        let state = self.state.borrow();
        SessionHealth {
            logged_in: self.is_logged_in(),
            logins: state.logins,
            last_error: state.refused.values().max_by_key(|refused| refused.until).and_then(|last| last.error.clone()),
        }
    }

    /// At one server at least.
    fn is_logged_in(&self) -> bool {
        self.state.borrow().tokens.values().any(|token| token.ends_at > Instant::now())
    }

    /// One that need not be renewed yet.
    fn lasting_token(&self, server: &str) -> Option<Rc<str>> {
        self.token_before(server, |token| token.renew_at)
    }

    /// One that the server still takes.
    fn living_token(&self, server: &str) -> Option<Rc<str>> {
        self.token_before(server, |token| token.ends_at)
    }

    fn token_before(&self, server: &str, moment: impl Fn(&Token) -> Instant) -> Option<Rc<str>> {
        let state = self.state.borrow();
        state.tokens.get(server).filter(|token| moment(token) > Instant::now()).map(|token| token.text.clone())
    }

    fn refused_lately(&self, server: &str) -> Result<(), Error> {
        let state = self.state.borrow();
        let lately = state.refused.get(server).filter(|refused| refused.until > Instant::now());
        lately.and_then(|refused| refused.error.clone()).map_or(Ok(()), Err)
    }

    /// The failure of a login at `server` that this caller has waited for.
    fn failed_since(&self, server: &str, logins_before: u64) -> Result<(), Error> {
        let state = self.state.borrow();
        match &state.failed {
            Some((at, error)) if at == server && state.logins != logins_before => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn remember(&self, server: &str, outcome: Result<LoginAnswer, Error>) -> Result<Rc<str>, Error> {
        let mut state = self.state.borrow_mut();
        state.logins += 1;
        state.failed = None;
        match outcome {
            Ok(answer) => {
                let (since, text) = (Instant::now(), Rc::<str>::from(answer.access_token));
                let life = Duration::from_secs(answer.token_ttl.max(1).unsigned_abs()).min(LONGEST_DURATION);
                let (renew_at, ends_at) = (since + life.mul_f64(RENEW_AFTER), since + life);
                state.tokens.insert(server.to_owned(), Token { text: text.clone(), since, renew_at, ends_at });
                if let Some(refused) = state.refused.get_mut(server) {
                    refused.error = None;
                }
                Ok(text)
            }
            Err(error) => {
                if let Some(token) = state.tokens.get_mut(server) {
                    token.renew_at = token.ends_at.min(Instant::now() + RENEWAL_PAUSE);
                }
                match error {
                    Error::Unauthorized { .. } => state.refuse(server, &error),
                    _ => state.failed = Some((server.to_owned(), error.clone())),
                }
                Err(error)
            }
        }
    }
}

impl State {
    fn refuse(&mut self, server: &str, error: &Error) {
        let times = self.refused.get(server).map_or(0, |refused| refused.times);
        let pause = FIRST_PAUSE.saturating_mul(1 << times.min(10)).min(LONGEST_PAUSE);
        let refused = Refused { error: Some(error.clone()), times: times + 1, until: Instant::now() + pause };
        self.refused.insert(server.to_owned(), refused);
    }
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

    #[actix::test]
    async fn a_refused_token_is_fetched_again_once() {
        let session = session();
        let old = session.token("a:1", |_| async { Ok(answer("old", 100)) }).await.unwrap().unwrap();
        session.forget("a:1", &old);
        let new = session.token("a:1", |_| async { Ok(answer("new", 100)) }).await.unwrap().unwrap();
        session.forget("a:1", &old);
        assert_eq!(&*new, "new");
        let kept = session.token("a:1", |_| async { panic!("no login is due") }).await.unwrap().unwrap();
        assert_eq!(&*kept, "new");
    }

    #[actix::test]
    async fn each_server_has_a_token_of_its_own() {
        let session = session();
        let first = session.token("a:1", |_| async { Ok(answer("a", 100)) }).await.unwrap().unwrap();
        session.token("b:1", |_| async { Ok(answer("b", 100)) }).await.unwrap();
        session.forget("b:1", &first);
        let kept = |server| session.token(server, |_| async { panic!("no login is due") });
        assert_eq!(kept("a:1").await.unwrap().as_deref(), Some("a"));
        assert_eq!(kept("b:1").await.unwrap().as_deref(), Some("b"));
    }

    #[actix::test]
    async fn refused_credentials_are_not_tried_in_a_loop() {
        let session = session();
        let refused =
            || Error::Unauthorized { operation: Operation::Login, server: "a:1".into(), reason: "wrong".into() };
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
    async fn a_token_that_is_refused_as_soon_as_it_is_given_is_not_fetched_in_a_loop() {
        let session = session();
        let refused =
            || Error::Unauthorized { operation: Operation::Beat, server: "a:1".into(), reason: "invalid".into() };
        let token = session.token("a:1", |_| async { Ok(answer("t", 100)) }).await.unwrap().unwrap();
        session.forget_useless("a:1", &token, &refused());
        assert_eq!(session.check("a:1"), Err(refused()));
        assert_eq!(session.token("a:1", |_| async { panic!("no login is due") }).await, Err(refused()));
    }

    #[actix::test]
    async fn a_token_that_cannot_be_renewed_serves_until_its_end() {
        let session = session();
        session.token("a:1", |_| async { Ok(answer("old", 100)) }).await.unwrap();
        let lives = |renew_at: Instant, ends_at: Instant| {
            let mut state = session.state.borrow_mut();
            let token = state.tokens.get_mut("a:1").unwrap();
            (token.renew_at, token.ends_at) = (renew_at, ends_at);
        };
        let down = || Error::Unreachable { operation: Operation::Login, server: "a:1".into(), reason: "down".into() };
        let now = Instant::now();
        lives(now, now + RENEWAL_PAUSE * 10);
        let kept = session.token("a:1", |_| async { Err(down()) }).await;
        assert_eq!(kept.unwrap().as_deref(), Some("old"));
        session.token("a:1", |_| async { panic!("not again at once") }).await.unwrap();
        lives(now, now);
        assert_eq!(session.token("a:1", |_| async { Err(down()) }).await, Err(down()));
    }

    #[actix::test]
    async fn without_credentials_nobody_logs_in() {
        let session = Session::new(None, None);
        assert_eq!(session.token("a:1", |_| async { panic!("no login is due") }).await, Ok(None));
    }
}
