//! The login: one token for all requests to a server, fetched by one login at a time.
//!
//! Only durations that are measured here count. The server's clock is never used.
//!
//! | situation | what is sent |
//! |---|---|
//! | no credentials | requests without a token |
//! | a token, younger than 85 % of its lifetime | the token |
//! | an older token | the token of a new login; the old one until it ends, if the login fails |
//! | the login was rejected, but requests are served | no token; the login is tried again at growing pauses |
//! | the login was rejected, and so are requests without a token | nothing until the next login: 1 s, 2 s, … 60 s |
//! | a request with a token was forbidden | once again, with a new token; the next login for this reason after 10 s |
//!
//! Why a server may serve without a token although it rejects the login: Nacos with authentication turned off has
//! no users and rejects every login. A client with credentials must work there, too.
//!
//! Invariant: one login at a time, for all servers together. A caller that has waited for a login at the same server
//! uses its outcome, even a failure.

use std::{cell::RefCell, collections::HashMap, future::Future, rc::Rc, time::Duration};

use actix_rt::time::Instant;
use tokio::sync::Mutex;

use crate::{config::LONGEST_DURATION, error::Error, wire::v1::LoginAnswer};

/// The share of its lifetime after which a token is renewed.
///
/// If a renewal fails, there is time for further attempts: with the default lifetime of 5 h, 45 minutes.
const RENEW_AFTER: f64 = 0.85;
/// The pause after a failed renewal while the token is still valid.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);
/// The shortest time between two logins at one server that rejected tokens cause. A heartbeat every 5 s then finds a
/// new token before its instance becomes unhealthy.
const REPLACEMENT_PAUSE: Duration = Duration::from_secs(10);
/// The pause after a rejected login. Each further rejection doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// User name and password. Never displayed.
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// The login of one Registry.
///
/// It decides when a login is needed. The login itself is passed in as a function, so that the rules are tested without
/// a server.
pub(crate) struct Session {
    credentials: RefCell<Option<Rc<Credentials>>>,
    state: RefCell<State>,
    /// Held by the one login under way.
    login: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// By server name. The servers of a cluster may or may not accept each other's tokens, so each has its own.
    servers: HashMap<String, Access>,
    logins: u64,
    /// The server at which the last login failed without a rejection, and the error.
    failed: Option<(String, Error)>,
}

/// The access to one server.
///
/// Created by the first login at this server.
#[derive(Default)]
struct Access {
    token: Option<Token>,
    /// `None` once a login has succeeded.
    rejection: Option<LoginRejection>,
    /// When a rejected token last caused a login.
    replaced_at: Option<Instant>,
    /// The number of such logins since the server last accepted a token.
    failed_replacements: u32,
}

/// A server's rejection of the login. The server may still serve requests without a token: with authentication turned
/// off it may not know the user.
///
/// It ends with the next login that is accepted, or with new credentials.
struct LoginRejection {
    error: Error,
    /// The number of rejections in a row.
    times: u32,
    since: Instant,
    /// The end of the pause before the next login.
    until: Instant,
    /// `None` until a request without a token has been answered.
    serves_without_token: Option<bool>,
    /// Whether requests without a token are rejected too. Nothing is sent before the next login then.
    is_closed: bool,
}

/// The reason for a login.
///
/// A login that is due may be skipped when another caller has just logged in. A login because of a rejected token
/// may not happen too often.
#[derive(Clone, Copy)]
enum Cause<'a> {
    /// There is no token, or it has to be renewed.
    Due,
    /// The server rejected a request that carried this token, or none.
    TokenRejected(Option<&'a str>),
}

/// Moments are of this machine's clock, from the lifetime that the server named.
struct Token {
    text: Rc<str>,
    since: Instant,
    renew_at: Instant,
    ends_at: Instant,
    /// Whether the server has served a request with this token.
    is_accepted: bool,
}

/// The state of the login.
#[derive(Debug, Clone)]
pub(crate) struct SessionHealth {
    pub(crate) logged_in: bool,
    pub(crate) logins: u64,
    pub(crate) last_error: Option<Error>,
}

impl Session {
    pub(crate) fn new(username: Option<String>, password: Option<String>) -> Self {
        let credentials = username.zip(password).map(|(username, password)| Credentials { username, password });
        let credentials = RefCell::new(credentials.map(Rc::new));
        Session { credentials, state: RefCell::default(), login: Mutex::new(()) }
    }

    /// Replaces the credentials and drops all tokens and rejections.
    pub(crate) fn replace_credentials(&self, credentials: Credentials) {
        self.credentials.replace(Some(Rc::new(credentials)));
        let mut state = self.state.borrow_mut();
        state.servers.clear();
        state.failed = None;
    }

    /// The token to send to `server`. `None` without credentials, and after a rejected login, since the server may
    /// serve requests without a token.
    ///
    /// Calls `login` if there is no token or it has to be renewed. One caller logs in, the others wait for the outcome:
    /// a server that hangs costs all of them one timeout together. If the login fails, the old token is used until it
    /// expires. A rejected login is repeated after a pause that grows.
    ///
    /// A login whose credentials were [replaced](Session::replace_credentials) meanwhile is repeated with the new ones.
    ///
    /// # Errors
    /// The error of `login`.
    pub(crate) async fn token<F>(
        &self,
        server: &str,
        login: impl Fn(Rc<Credentials>) -> F,
    ) -> Result<Option<Rc<str>>, Error>
    where
        F: Future<Output = Result<LoginAnswer, Error>>,
    {
        let Some(credentials) = self.credentials() else { return Ok(None) };
        if let Some(token) = self.lasting_token(server) {
            return Ok(Some(token));
        }
        if self.is_served_without_login(server) {
            return Ok(None);
        }
        let error = match self.renew(server, Cause::Due, credentials, login).await {
            Ok(token) => return Ok(Some(token)),
            Err(error) => error,
        };
        match self.living_token(server) {
            Some(token) => Ok(Some(token)),
            None if self.with_rejection(server, |rejection| !rejection.is_closed) == Some(true) => Ok(None),
            None => Err(error),
        }
    }

    /// The token with which to repeat a request that `server` rejected with the token `rejected`, or without a token.
    /// `None` if there is no other token.
    ///
    /// No text of a server says whether the token has become invalid or lacks a right. So a login replaces a token that
    /// was accepted before: once for all requests that were rejected with it, and not again before
    /// [`REPLACEMENT_PAUSE`] has passed.
    ///
    /// The caller repeats its request once with the token, and takes the answer as it is.
    ///
    /// # Errors
    /// The error of the last login, if that login failed.
    pub(crate) async fn replacement<F>(
        &self,
        server: &str,
        rejected: Option<&str>,
        login: impl Fn(Rc<Credentials>) -> F,
    ) -> Result<Option<Rc<str>>, Error>
    where
        F: Future<Output = Result<LoginAnswer, Error>>,
    {
        let Some(credentials) = self.credentials() else { return Ok(None) };
        if let Some(token) = self.other_token(server, rejected) {
            return Ok(Some(token));
        }
        if !self.may_replace(server) {
            return self.login_rejection(server).map_or(Ok(None), Err);
        }
        self.renew(server, Cause::TokenRejected(rejected), credentials, login).await.map(Some)
    }

    /// Logs in, unless another caller just has.
    ///
    /// # Errors
    /// The error of the login, or of the login that this caller has waited for.
    async fn renew<F>(
        &self,
        server: &str,
        cause: Cause<'_>,
        credentials: Rc<Credentials>,
        login: impl Fn(Rc<Credentials>) -> F,
    ) -> Result<Rc<str>, Error>
    where
        F: Future<Output = Result<LoginAnswer, Error>>,
    {
        let logins_before = self.state.borrow().logins;
        let _one_at_a_time = self.login.lock().await;
        let (token, is_due) = match cause {
            Cause::Due => (self.lasting_token(server), self.recently_rejected(server).is_ok()),
            Cause::TokenRejected(rejected) => (self.other_token(server, rejected), self.may_replace(server)),
        };
        if let Some(token) = token {
            return Ok(token);
        }
        if let (false, Some(error)) = (is_due, self.login_rejection(server)) {
            return Err(error);
        }
        self.failed_since(server, logins_before)?;
        let outcome = self.log_in(credentials, login).await;
        self.remember(server, cause, outcome)
    }

    /// Logs in with the current credentials, and again if they are replaced meanwhile.
    ///
    /// So a caller never gets a token of credentials that were replaced.
    async fn log_in<F>(&self, mut credentials: Rc<Credentials>, login: impl Fn(Rc<Credentials>) -> F) -> F::Output
    where
        F: Future<Output = Result<LoginAnswer, Error>>,
    {
        loop {
            credentials = self.credentials().unwrap_or(credentials);
            let outcome = login(credentials.clone()).await;
            self.state.borrow_mut().logins += 1;
            if self.credentials().is_none_or(|now| Rc::ptr_eq(&now, &credentials)) {
                return outcome;
            }
        }
    }

    /// Whether requests may be sent to this server.
    ///
    /// Requests that the server would reject are sent to another server instead.
    ///
    /// # Errors
    /// The server's last rejection of the login, if it serves nothing without a token. Ok again when a login is due.
    pub(crate) fn check(&self, server: &str) -> Result<(), Error> {
        let is_closed = self.with_rejection(server, |rejection| rejection.is_closed) == Some(true);
        if !is_closed || self.living_token(server).is_some() {
            return Ok(());
        }
        self.recently_rejected(server)
    }

    /// Whether there is a valid token for this server.
    pub(crate) fn has_token(&self, server: &str) -> bool {
        self.living_token(server).is_some()
    }

    /// Whether this server rejected the last login.
    pub(crate) fn is_rejected(&self, server: &str) -> bool {
        self.login_rejection(server).is_some()
    }

    /// Notes that the server served a request with this token, or without one. Returns the rejection of the login the
    /// first time that the server serves a request although it rejected the login.
    ///
    /// The caller logs it as a warning: the credentials may be wrong although requests succeed.
    pub(crate) fn note_served(&self, server: &str, token: Option<&str>) -> Option<Error> {
        let mut state = self.state.borrow_mut();
        let access = state.servers.get_mut(server)?;
        match token {
            Some(accepted) => {
                let token = access.token.as_mut().filter(|token| &*token.text == accepted)?;
                token.is_accepted = true;
                access.failed_replacements = 0;
                None
            }
            None => {
                access.failed_replacements = 0;
                access.rejection.as_mut()?.note_served(true)
            }
        }
    }

    /// Notes that the server rejected a request without a token. `is_closed` says that it would reject every other
    /// request too. Returns the rejection of the login the first time.
    pub(crate) fn note_not_served(&self, server: &str, is_closed: bool) -> Option<Error> {
        let mut state = self.state.borrow_mut();
        let rejection = state.servers.get_mut(server)?.rejection.as_mut()?;
        // A server that has served without a token is expected to do so again, and stays in use.
        if rejection.serves_without_token == Some(true) {
            return None;
        }
        rejection.is_closed |= is_closed;
        rejection.note_served(false)
    }

    /// Whether there are credentials.
    pub(crate) fn is_needed(&self) -> bool {
        self.credentials().is_some()
    }

    fn credentials(&self) -> Option<Rc<Credentials>> {
        self.credentials.borrow().clone()
    }

    /// The state for the status page. With several servers, the last error is of the server whose pause ends
    /// last.
    pub(crate) fn health(&self) -> SessionHealth {
        let state = self.state.borrow();
        let rejections = state.servers.values().filter_map(|access| access.rejection.as_ref());
        SessionHealth {
            logged_in: self.is_logged_in(),
            logins: state.logins,
            last_error: rejections.max_by_key(|rejection| rejection.until).map(|last| last.error.clone()),
        }
    }

    /// Whether there is a valid token for at least one server.
    ///
    /// Tokens that have ended do not count.
    fn is_logged_in(&self) -> bool {
        let now = Instant::now();
        self.state
            .borrow()
            .servers
            .values()
            .any(|access| access.token.as_ref().is_some_and(|token| token.ends_at > now))
    }

    /// A token that does not need to be renewed yet.
    fn lasting_token(&self, server: &str) -> Option<Rc<str>> {
        self.token_if(server, |token| token.renew_at > Instant::now())
    }

    /// A token that has not expired.
    fn living_token(&self, server: &str) -> Option<Rc<str>> {
        self.token_if(server, |token| token.ends_at > Instant::now())
    }

    /// A token other than `rejected`.
    fn other_token(&self, server: &str, rejected: Option<&str>) -> Option<Rc<str>> {
        self.token_if(server, |token| rejected != Some(&*token.text) && token.ends_at > Instant::now())
    }

    /// The token of this server, if `is_wanted` says so.
    fn token_if(&self, server: &str, is_wanted: impl Fn(&Token) -> bool) -> Option<Rc<str>> {
        let state = self.state.borrow();
        let token = state.servers.get(server)?.token.as_ref();
        token.filter(|token| is_wanted(token)).map(|token| token.text.clone())
    }

    /// Whether a rejected token may cause a login at this server now.
    fn may_replace(&self, server: &str) -> bool {
        self.state.borrow().servers.get(server).is_none_or(Access::may_replace)
    }

    /// Looks at the server's rejection of the login, if there is one.
    fn with_rejection<T>(&self, server: &str, look: impl FnOnce(&LoginRejection) -> T) -> Option<T> {
        self.state.borrow().servers.get(server)?.rejection.as_ref().map(look)
    }

    fn login_rejection(&self, server: &str) -> Option<Error> {
        self.with_rejection(server, |rejection| rejection.error.clone())
    }

    /// # Errors
    /// The rejection, while the pause after it lasts.
    fn recently_rejected(&self, server: &str) -> Result<(), Error> {
        let lately = |rejection: &LoginRejection| (rejection.until > Instant::now()).then(|| rejection.error.clone());
        self.with_rejection(server, lately).flatten().map_or(Ok(()), Err)
    }

    /// Whether the server serves without a token and no login is needed now. Only one caller tries a login that is due;
    /// the others do not wait for it.
    fn is_served_without_login(&self, server: &str) -> bool {
        let is_due = |rejection: &LoginRejection| rejection.until <= Instant::now() && self.login.try_lock().is_ok();
        self.with_rejection(server, |rejection| rejection.serves_without_token == Some(true) && !is_due(rejection))
            == Some(true)
    }

    /// The error of a login at `server` that this caller has waited for.
    fn failed_since(&self, server: &str, logins_before: u64) -> Result<(), Error> {
        let state = self.state.borrow();
        match &state.failed {
            Some((at, error)) if at == server && state.logins != logins_before => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Stores the outcome of a login.
    fn remember(&self, server: &str, cause: Cause<'_>, outcome: Result<LoginAnswer, Error>) -> Result<Rc<str>, Error> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.failed = None;
        let access = state.servers.entry(server.to_owned()).or_default();
        match outcome {
            Ok(answer) => {
                access.note_login(cause);
                access.rejection = None;
                let token = Token::new(answer);
                let text = token.text.clone();
                access.token = Some(token);
                Ok(text)
            }
            Err(error) => {
                access.delay_renewal();
                if error.is_retryable() {
                    state.failed = Some((server.to_owned(), error.clone()));
                } else {
                    access.note_login(cause);
                    access.reject(error.clone());
                }
                Err(error)
            }
        }
    }
}

impl Access {
    /// Whether a rejected request may cause a login. If the server never accepted the token, the user probably lacks
    /// the right; then the pause counts from the login that gave this token.
    fn may_replace(&self) -> bool {
        let last = match &self.token {
            Some(token) if !token.is_accepted => Some(token.since),
            _ => self.replaced_at.max(self.rejection.as_ref().map(|rejection| rejection.since)),
        };
        last.is_none_or(|last| last.elapsed() >= doubled(REPLACEMENT_PAUSE, self.failed_replacements))
    }

    /// Notes a login that the server accepted or rejected.
    fn note_login(&mut self, cause: Cause<'_>) {
        if let Cause::TokenRejected(_) = cause {
            self.replaced_at = Some(Instant::now());
            self.failed_replacements += 1;
        }
    }

    /// Delays the next login after a failed one, if requests can be served without a new token.
    ///
    /// Without the delay, each request would first try to log in.
    fn delay_renewal(&mut self) {
        let now = Instant::now();
        if let Some(token) = &mut self.token {
            token.renew_at = token.renew_at.max(now + RENEWAL_PAUSE).min(token.ends_at);
        }
        if let Some(rejection) =
            self.rejection.as_mut().filter(|rejection| rejection.serves_without_token == Some(true))
        {
            rejection.until = now + doubled(FIRST_PAUSE, rejection.times);
        }
    }

    /// Stores a rejection. The pause grows with each one in a row.
    fn reject(&mut self, error: Error) {
        let (since, before) = (Instant::now(), self.rejection.take());
        let times = before.as_ref().map_or(0, |before| before.times);
        self.rejection = Some(LoginRejection {
            error,
            times: times + 1,
            since,
            until: since + doubled(FIRST_PAUSE, times),
            serves_without_token: before.and_then(|before| before.serves_without_token),
            is_closed: false,
        });
    }
}

impl LoginRejection {
    /// Returns the rejection of the login if `is_served` differs from before.
    fn note_served(&mut self, is_served: bool) -> Option<Error> {
        let before = self.serves_without_token.replace(is_served);
        (before != Some(is_served)).then(|| self.error.clone())
    }
}

/// The lifetime counts from the arrival of the answer, and is at least a second.
impl Token {
    fn new(answer: LoginAnswer) -> Self {
        let since = Instant::now();
        let life = Duration::from_secs(answer.token_ttl.max(1).unsigned_abs()).min(LONGEST_DURATION);
        let (renew_at, ends_at) = (since + life.mul_f64(RENEW_AFTER), since + life);
        Token { text: answer.access_token.into(), since, renew_at, ends_at, is_accepted: false }
    }
}

/// `pause`, doubled `times` times, up to [`MAX_PAUSE`].
fn doubled(pause: Duration, times: u32) -> Duration {
    pause.saturating_mul(1 << times.min(10)).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::Operation;

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

    /// A session with a token that the server accepted.
    async fn accepted(token: &str) -> Session {
        let session = session();
        session.token("a:1", |_| async { Ok(answer(token, 1000)) }).await.unwrap();
        session.note_served("a:1", Some(token));
        session
    }

    async fn replace(session: &Session, rejected: &str, by: &str) -> Option<Rc<str>> {
        session.replacement("a:1", Some(rejected), |_| async { Ok(answer(by, 1000)) }).await.unwrap()
    }

    async fn keep(session: &Session, rejected: &str) -> Option<Rc<str>> {
        session.replacement("a:1", Some(rejected), |_| async { panic!("no login is due") }).await.unwrap()
    }

    #[actix::test]
    async fn many_requests_whose_token_is_rejected_cause_one_login() {
        let (session, logins) = (accepted("old").await, Cell::new(0));
        let replace = || {
            session.replacement("a:1", Some("old"), |_| async {
                actix_rt::task::yield_now().await;
                logins.set(logins.get() + 1);
                Ok(answer("new", 1000))
            })
        };
        let tokens = futures_util::future::join_all((0..64).map(|_| replace())).await;
        assert!(tokens.iter().all(|token| token.as_ref().unwrap().as_deref() == Some("new")));
        assert_eq!(logins.get(), 1);
        assert_eq!(keep(&session, "old").await.as_deref(), Some("new"), "a late answer");
    }

    #[actix::test]
    async fn rejected_tokens_cause_at_most_one_login_in_ten_seconds() {
        tokio::time::pause();
        let session = accepted("1").await;
        assert_eq!(replace(&session, "1", "2").await.as_deref(), Some("2"));
        session.note_served("a:1", Some("2"));
        tokio::time::advance(REPLACEMENT_PAUSE - Duration::from_millis(1)).await;
        assert_eq!(keep(&session, "2").await, None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(replace(&session, "2", "3").await.as_deref(), Some("3"));
    }

    #[actix::test]
    async fn a_token_that_was_never_accepted_is_replaced_at_growing_intervals() {
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
        session.note_served("a:1", Some("5"));
        tokio::time::advance(REPLACEMENT_PAUSE).await;
        assert!(replace(&session, "5", "6").await.is_some());
    }

    #[actix::test]
    async fn a_rejected_token_stays_in_use_while_there_is_no_other() {
        tokio::time::pause();
        let session = accepted("old").await;
        assert_eq!(session.replacement("a:1", Some("old"), |_| async { Err(down()) }).await, Err(down()));
        let kept = session.token("a:1", |_| async { panic!("no login is due") }).await;
        assert_eq!(kept.unwrap().as_deref(), Some("old"), "it may lack only one right");

        assert_eq!(session.replacement("a:1", Some("old"), |_| async { Err(wrong()) }).await, Err(wrong()), "at once");
        tokio::time::advance(FIRST_PAUSE).await;
        let outcome = session.replacement("a:1", Some("old"), |_| async { panic!("no login is due") }).await;
        assert_eq!(outcome, Err(wrong()), "the reason for the rejection");
        assert_eq!(session.check("a:1"), Ok(()));
    }

    #[actix::test]
    async fn each_server_has_its_own_token() {
        let session = session();
        let first = session.token("a:1", |_| async { Ok(answer("a", 100)) }).await.unwrap().unwrap();
        session.token("b:1", |_| async { Ok(answer("b", 100)) }).await.unwrap();
        session.note_served("b:1", Some(&first));
        let kept = |server| session.token(server, |_| async { panic!("no login is due") });
        assert_eq!(kept("a:1").await.unwrap().as_deref(), Some("a"));
        assert_eq!(kept("b:1").await.unwrap().as_deref(), Some("b"));
    }

    /// A session whose login the server has just rejected.
    async fn login_rejection() -> Session {
        let session = session();
        assert_eq!(session.token("a:1", |_| async { Err(wrong()) }).await, Ok(None));
        session
    }

    fn wrong() -> Error {
        denied(Operation::Login, "wrong")
    }

    fn down() -> Error {
        Error::Unreachable { operation: Operation::Login, server: "a:1".into(), reason: "down".into() }
    }

    #[actix::test]
    async fn a_rejected_login_is_repeated_at_growing_intervals_while_the_server_serves_nothing_without_it() {
        tokio::time::pause();
        let session = login_rejection().await;
        for (number, seconds) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            assert_eq!(session.check("a:1"), Ok(()), "it may serve without a token");
            let reported = session.note_not_served("a:1", true);
            assert_eq!(reported, (number == 0).then(wrong), "once");
            assert_eq!(session.replacement("a:1", None, |_| async { panic!("too early") }).await, Err(wrong()));
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert_eq!(session.check("a:1"), Err(wrong()));
            assert_eq!(session.token("a:1", |_| async { panic!("too early") }).await, Err(wrong()));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(session.check("a:1"), Ok(()));
            assert_eq!(session.token("a:1", |_| async { Err(wrong()) }).await, Ok(None));
        }
        assert_eq!(session.token("b:1", |_| async { Ok(answer("b", 100)) }).await.unwrap().as_deref(), Some("b"));
    }

    #[actix::test]
    async fn a_server_that_rejects_one_operation_without_a_token_may_serve_others() {
        let session = login_rejection().await;
        assert_eq!(session.note_not_served("a:1", false), Some(wrong()));
        assert_eq!(session.check("a:1"), Ok(()));
        assert_eq!(session.note_served("a:1", None), Some(wrong()));
        assert_eq!(session.note_not_served("a:1", true), None);
        assert_eq!(session.check("a:1"), Ok(()), "it has served");
    }

    #[actix::test]
    async fn without_a_token_only_the_caller_that_logs_in_waits() {
        tokio::time::pause();
        let session = login_rejection().await;
        assert_eq!(session.note_served("a:1", None), Some(wrong()));
        assert_eq!(session.note_served("a:1", None), None, "reported once");
        assert_eq!(session.token("a:1", |_| async { panic!("too early") }).await, Ok(None));
        tokio::time::advance(FIRST_PAUSE).await;
        let hold = tokio::sync::Notify::new();
        let first = session.token("a:1", |_| async {
            hold.notified().await;
            Err(down())
        });
        let second = async {
            let token = session.token("a:1", |_| async { panic!("one is under way") }).await;
            hold.notify_one();
            token
        };
        assert_eq!(futures_util::future::join(first, second).await, (Ok(None), Ok(None)));
        assert_eq!(session.token("a:1", |_| async { panic!("too early") }).await, Ok(None));
        tokio::time::advance(FIRST_PAUSE * 2).await;
        let token = session.token("a:1", |_| async { Ok(answer("t", 100)) }).await;
        assert_eq!(token.unwrap().as_deref(), Some("t"));
        assert!(!session.is_rejected("a:1"));
    }

    #[actix::test]
    async fn a_server_that_stops_serving_without_a_token_causes_a_login() {
        tokio::time::pause();
        let session = login_rejection().await;
        session.note_served("a:1", None);
        let too_early = session.replacement("a:1", None, |_| async { panic!("no login is due") }).await;
        assert_eq!(too_early, Err(wrong()));
        tokio::time::advance(REPLACEMENT_PAUSE).await;
        let token = session.replacement("a:1", None, |_| async { Ok(answer("t", 100)) }).await;
        assert_eq!(token.unwrap().as_deref(), Some("t"));
    }

    fn others() -> Credentials {
        Credentials { username: "you".into(), password: "quiet".into() }
    }

    #[actix::test]
    async fn replaced_credentials_drop_tokens_and_rejections() {
        let session = login_rejection().await;
        session.note_not_served("a:1", true);
        session.token("b:1", |_| async { Ok(answer("b", 100)) }).await.unwrap();
        session.replace_credentials(others());
        assert_eq!((session.check("a:1"), session.is_rejected("a:1")), (Ok(()), false));
        for server in ["a:1", "b:1"] {
            let log_in = |used: Rc<Credentials>| async move { Ok(answer(&used.username, 100)) };
            assert_eq!(session.token(server, log_in).await.unwrap().as_deref(), Some("you"), "{server}");
        }
        assert_eq!(session.health().logins, 4);
    }

    #[actix::test]
    async fn a_login_whose_credentials_were_replaced_meanwhile_is_repeated() {
        let session = session();
        let log_in = |used: Rc<Credentials>| {
            if used.username == "me" {
                session.replace_credentials(others());
                return std::future::ready(Err(wrong()));
            }
            std::future::ready(Ok(answer(&used.username, 100)))
        };
        assert_eq!(session.token("a:1", log_in).await.unwrap().as_deref(), Some("you"));
        assert!(!session.is_rejected("a:1"));
        // A request that was sent with a former token.
        assert_eq!(keep(&session, "old").await.as_deref(), Some("you"));
    }

    #[actix::test]
    async fn the_lifetime_of_a_token_is_limited_so_that_it_cannot_overflow() {
        let session = session();
        session.token("a:1", |_| async { Ok(answer("t", i64::MAX)) }).await.unwrap();
        session.token("a:1", |_| async { panic!("no login is due") }).await.unwrap();
    }

    #[actix::test]
    async fn a_login_that_hangs_costs_one_timeout_however_many_callers_wait() {
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
        assert_eq!(logins.get(), 3, "a later login, or one at another server, may succeed");
    }

    #[actix::test]
    async fn a_token_that_cannot_be_renewed_is_used_until_it_expires() {
        tokio::time::pause();
        let session = session();
        session.token("a:1", |_| async { Ok(answer("old", 100)) }).await.unwrap();
        tokio::time::advance(Duration::from_secs(85)).await;
        let kept = session.token("a:1", |_| async { Err(down()) }).await;
        assert_eq!(kept.unwrap().as_deref(), Some("old"));
        session.token("a:1", |_| async { panic!("not again at once") }).await.unwrap();
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(session.token("a:1", |_| async { Err(down()) }).await, Err(down()));
    }

    #[actix::test]
    async fn no_login_is_attempted_without_credentials() {
        let session = Session::new(None, None);
        assert_eq!(session.token("a:1", |_| async { panic!("no login is due") }).await, Ok(None));
    }
}
