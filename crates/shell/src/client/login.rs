//! What a client logs in with: a password, a token in its place, the answer to a question; and
//! what becomes of it when the server says no.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use contract::{Answer, AskId, Secret};
use openvpn::{
    AuthRetry, Challenge, Conduct, Login, LoginRefusal, Profile, StaticChallenge, static_response,
};
use tokio::sync::{mpsc, oneshot};

use super::ClientFailure;
use super::rounds::Ending;

/// Whoever can be asked for a login; may block for as long as a person thinks.
pub trait Desk: fmt::Debug + Send + Sync {
    /// User and password; `user` if only the password is missing.
    ///
    /// # Errors
    ///
    /// One line that says why there are none.
    fn login(&self, user: Option<&str>) -> Result<(String, Secret), String>;

    /// The answer to a question of the profile's or the server's.
    ///
    /// # Errors
    ///
    /// One line that says why there is none.
    fn answer(&self, question: &str, echo: bool) -> Result<Secret, String>;

    /// Whether there is a person to answer.
    fn is_attended(&self) -> bool;

    /// Whether somebody is asked for the login, who may give another the next time; false if it is
    /// read from the same place again.
    fn asks_for_login(&self) -> bool {
        true
    }

    /// User and password field, with the answer to the profile's question, or the server's last
    /// one, already in it; `None` if that is not this desk's affair.
    fn packed_login(
        &self,
        _question: Option<&StaticChallenge>,
    ) -> Option<Result<(String, Secret), String>> {
        None
    }

    /// What becomes of a login that is refused; the profile says `profile`.
    fn retry(&self, profile: AuthRetry) -> AuthRetry {
        profile
    }

    /// How often it was said that passwords are to be forgotten.
    fn forgotten(&self) -> u64 {
        0
    }
}

/// The login of one client, over all its connections.
#[derive(Debug)]
pub(super) struct Book {
    desk: Arc<dyn Desk>,
    wants_login: bool,
    forgets: bool,
    retry: AuthRetry,
    question: Option<StaticChallenge>,
    forgotten: u64,
    /// The password is a whole field, the answer to the question in it.
    is_packed: bool,
    user: Option<String>,
    password: Option<Secret>,
    /// In the place of the password, with the user it is for.
    token: Option<(String, Secret)>,
    /// The server asked this when it refused the connection before.
    challenge: Option<Challenge>,
    /// When the server wants us back.
    pub(super) backoff: Option<Duration>,
}

impl Book {
    pub(super) fn new(
        profile: &Profile,
        login: Option<(String, Secret)>,
        desk: Arc<dyn Desk>,
    ) -> Self {
        let (user, password) = match (&profile.login, login) {
            (Login::Given(user, password), _) => (Some(user.clone()), Some(password.clone())),
            (_, Some((user, password))) => (Some(user), Some(password)),
            (Login::AskPassword(user), None) => (Some(user.clone()), None),
            (Login::None | Login::Ask, None) => (None, None),
        };
        // What is in the profile for everybody to read need not be forgotten.
        let is_given = matches!(profile.login, Login::Given(..));
        Self {
            desk,
            wants_login: !matches!(profile.login, Login::None),
            forgets: profile.forgets_password && !is_given,
            retry: profile.auth_retry,
            question: profile.challenge.clone(),
            forgotten: 0,
            is_packed: false,
            user,
            password,
            token: None,
            challenge: None,
            backoff: None,
        }
    }

    /// What the next connection logs in with; asks whoever has to be asked.
    pub(super) async fn conduct(&mut self) -> Result<Conduct, ClientFailure> {
        let (forgets, asks) = (self.forgets, self.desk.is_attended());
        let credentials = self.credentials().await.map_err(ClientFailure)?;
        Ok(Conduct { credentials, forgets, asks })
    }

    async fn credentials(&mut self) -> Result<Option<(String, Secret)>, String> {
        let forgotten = self.desk.forgotten();
        if std::mem::replace(&mut self.forgotten, forgotten) != forgotten {
            (self.password, self.token) = (None, None);
        }
        let is_challenged = self.challenge.is_some();
        if is_challenged || (self.wants_login && self.token.is_none() && self.password.is_none()) {
            // What the server asked was shown when it did.
            let question = self.question.clone().filter(|_| !is_challenged);
            let packed = self.ask(move |desk| desk.packed_login(question.as_ref()).transpose());
            if let Some((user, field)) = packed.await? {
                self.challenge = None;
                self.user = Some(user.clone());
                // An answer is good once; it lasts only until the server refuses it.
                self.password = (!self.forgets && !is_challenged).then(|| field.clone());
                self.is_packed = true;
                return Ok(Some((user, field)));
            }
        }
        if let Some(challenge) = self.challenge.take() {
            let (prompt, echo) = (challenge.prompt.clone(), challenge.echo);
            let response = self.ask(move |desk| desk.answer(&prompt, echo)).await?;
            return Ok(Some((challenge.user.clone(), challenge.respond(&response))));
        }
        if !self.wants_login || self.token.is_some() {
            return Ok(self.token.clone());
        }
        let (user, password) = match (self.user.clone(), self.password.clone()) {
            (Some(user), Some(password)) => (user, password),
            (user, _) => self.ask(move |desk| desk.login(user.as_deref())).await?,
        };
        self.user = Some(user.clone());
        self.password = (!self.forgets).then(|| password.clone());
        let question = self.question.clone().filter(|_| !self.is_packed);
        let Some(question) = question else { return Ok(Some((user, password))) };
        let field = self.ask(move |desk| challenged(desk, &password, &question)).await?;
        Ok(Some((user, field)))
    }

    /// Asks on a thread of its own, which nobody waits for when the client is told to stop.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Desk) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let desk = Arc::clone(&self.desk);
        let (reply, answer) = oneshot::channel();
        let asking = move || drop(reply.send(question(&*desk)));
        std::thread::Builder::new()
            .name("login".to_owned())
            .spawn(asking)
            .map_err(|error| format!("a thread to ask on: {error}"))?;
        answer.await.map_err(|_| "nobody answers".to_owned())?
    }

    /// Asks while the connection goes on; what is typed goes to `answers`.
    pub(super) fn ask_beside(
        &self,
        id: AskId,
        text: String,
        echo: bool,
        answers: mpsc::UnboundedSender<(AskId, Answer)>,
    ) {
        self.beside(id, answers, move |desk| desk.answer(&text, echo));
    }

    /// Gets the password again while the connection goes on, from where it came first, and with it
    /// the answer to the profile's question.
    pub(super) fn ask_password_beside(
        &self,
        id: AskId,
        user: String,
        answers: mpsc::UnboundedSender<(AskId, Answer)>,
    ) {
        let user = self.user.clone().unwrap_or(user);
        let question = self.question.clone();
        self.beside(id, answers, move |desk| {
            if let Some(packed) = desk.packed_login(question.as_ref()) {
                return packed.map(|(_, field)| field);
            }
            let (_, password) = desk.login(Some(&user))?;
            match &question {
                None => Ok(password),
                Some(question) => challenged(desk, &password, question),
            }
        });
    }

    fn beside(
        &self,
        id: AskId,
        answers: mpsc::UnboundedSender<(AskId, Answer)>,
        question: impl FnOnce(&dyn Desk) -> Result<Secret, String> + Send + 'static,
    ) {
        let desk = Arc::clone(&self.desk);
        let asking = move || {
            let answer = question(&*desk);
            let answer = answer.inspect_err(|why| tracing::warn!("{why}")).ok();
            drop(answers.send((id, Answer::Prompted(answer))));
        };
        let spawned = std::thread::Builder::new().name("login".to_owned()).spawn(asking);
        if let Err(error) = spawned {
            tracing::warn!(%error, "a thread to ask on");
        }
    }

    /// Learns from how a connection ended.
    pub(super) fn after(
        &mut self,
        token: Option<&(String, Secret)>,
        refusal: Option<&LoginRefusal>,
        ending: Ending,
    ) -> Ending {
        if let Some(token) = token {
            self.token = Some(token.clone());
        }
        // A connection that broke for other reasons leaves the token as good as it was.
        let Some(refusal) = refusal else { return ending };
        let used_token = self.token.take().is_some();
        match (refusal, ending) {
            (_, ending @ Ending::Told) => ending,
            (LoginRefusal::Challenge(challenge), Ending::Refused(why)) => {
                if !challenge.wants_response {
                    return Ending::Refused(challenge.prompt.clone());
                }
                if !self.desk.is_attended() {
                    let why = format!("{why}; run this in a terminal to answer");
                    return Ending::Refused(why);
                }
                self.challenge = Some(challenge.clone());
                Ending::Again
            }
            (LoginRefusal::Temporary { backoff }, ending) => {
                self.backoff = *backoff;
                ending
            }
            // Also a server that has lost its memory says so to a token: the password may do.
            (LoginRefusal::SessionExpired | LoginRefusal::Denied, Ending::Refused(why)) => {
                match self.desk.retry(self.retry) {
                    _ if used_token => Ending::Again,
                    AuthRetry::None => Ending::Refused(why),
                    AuthRetry::Same => Ending::Failed(why),
                    // Somebody may put the file right meanwhile; until then, no hurry.
                    AuthRetry::Ask if !self.desk.asks_for_login() => {
                        self.password = None;
                        Ending::Failed(why)
                    }
                    AuthRetry::Ask if self.desk.is_attended() => {
                        tracing::warn!("{why}");
                        self.password = None;
                        Ending::Again
                    }
                    AuthRetry::Ask => Ending::Refused(why),
                }
            }
            (_, ending) => ending,
        }
    }
}

/// The password, and what is typed in answer to the profile's question beside it.
fn challenged(
    desk: &dyn Desk,
    password: &Secret,
    question: &StaticChallenge,
) -> Result<Secret, String> {
    let response = desk.answer(&question.text, question.echo)?;
    Ok(if question.is_appended {
        Secret::new([password.expose(), response.expose()].concat())
    } else {
        static_response(password, &response)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Somebody who types what is in the list.
    #[derive(Debug, Default)]
    struct Typist {
        types: Mutex<Vec<&'static str>>,
        asked: Mutex<Vec<String>>,
        is_away: bool,
        has_a_file: bool,
        /// Packs answers into the password itself.
        packs: bool,
        retry: Option<AuthRetry>,
        forgotten: std::sync::atomic::AtomicU64,
    }

    impl Typist {
        fn who_types(words: &[&'static str]) -> Arc<Self> {
            Arc::new(Self::typing(words))
        }

        fn typing(words: &[&'static str]) -> Self {
            let types = words.iter().rev().copied().collect();
            Self { types: Mutex::new(types), ..Self::default() }
        }

        fn next(&self, question: &str) -> Result<Secret, String> {
            self.asked.lock().unwrap().push(question.to_owned());
            let typed = self.types.lock().unwrap().pop();
            typed.map(Secret::new).ok_or_else(|| format!("nobody answers {question:?}"))
        }
    }

    impl Desk for Typist {
        fn login(&self, user: Option<&str>) -> Result<(String, Secret), String> {
            let user = user.unwrap_or("ann");
            Ok((user.to_owned(), self.next(&format!("password of {user}"))?))
        }

        fn answer(&self, question: &str, _: bool) -> Result<Secret, String> {
            if self.is_away { Err("no terminal".to_owned()) } else { self.next(question) }
        }

        fn is_attended(&self) -> bool {
            !self.is_away
        }

        fn asks_for_login(&self) -> bool {
            !self.has_a_file
        }

        fn packed_login(
            &self,
            question: Option<&StaticChallenge>,
        ) -> Option<Result<(String, Secret), String>> {
            let text = question.map_or("login", |question| question.text.as_str());
            self.packs.then(|| Ok(("ann".to_owned(), self.next(text)?)))
        }

        fn retry(&self, profile: AuthRetry) -> AuthRetry {
            self.retry.unwrap_or(profile)
        }

        fn forgotten(&self) -> u64 {
            self.forgotten.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    const PROFILE: &str = "client\ndev tun\nremote 192.0.2.1\nauth-user-pass\npeer-fingerprint \
        00:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10:11:12:13:14:15:16:17:18:19:1a:1b:1c:1d:1e:1f\n";

    fn book(desk: &Arc<Typist>, lines: &str) -> Book {
        let text = format!("{PROFILE}{lines}");
        let profile = Profile::parse(&text, &mut |_| Err("no file".to_owned())).unwrap();
        Book::new(&profile, None, Arc::clone(desk) as Arc<dyn Desk>)
    }

    async fn shown(book: &mut Book) -> String {
        let conduct = book.conduct().await.unwrap();
        let (user, field) = conduct.credentials.unwrap();
        format!("{user}: {}", String::from_utf8_lossy(field.expose()))
    }

    fn token() -> (String, Secret) {
        ("ann".to_owned(), Secret::new("token"))
    }

    fn refused() -> Ending {
        Ending::Refused("no".to_owned())
    }

    #[tokio::test]
    async fn the_password_is_asked_for_once_or_every_time_with_auth_nocache() {
        for (lines, asked) in [("", 1), ("auth-nocache", 2)] {
            let desk = Typist::who_types(&["one", "two"]);
            let mut book = book(&desk, lines);
            let (first, second) = (shown(&mut book).await, shown(&mut book).await);

            assert_eq!(first, "ann: one");
            assert_eq!(second, if asked == 1 { "ann: one" } else { "ann: two" });
            assert_eq!(desk.asked.lock().unwrap().len(), asked);
        }
    }

    #[tokio::test]
    async fn a_token_takes_the_passwords_place_until_it_is_refused() {
        let desk = Typist::who_types(&["one", "two"]);
        let mut book = book(&desk, "auth-nocache");
        shown(&mut book).await;

        let ending = book.after(Some(&token()), None, Ending::Lost("gone".to_owned()));
        assert!(matches!(ending, Ending::Lost(_)));
        assert_eq!(shown(&mut book).await, "ann: token");
        let ending = book.after(None, Some(&LoginRefusal::SessionExpired), refused());
        assert!(matches!(ending, Ending::Again));
        assert_eq!(shown(&mut book).await, "ann: two");
        let ending = book.after(None, Some(&LoginRefusal::SessionExpired), refused());
        assert!(matches!(ending, Ending::Refused(_)), "{ending:?}");
    }

    #[tokio::test]
    async fn questions_of_the_profile_and_of_the_server_are_asked() {
        let desk = Typist::who_types(&["password", "123456", "654321"]);
        let mut book = book(&desk, "static-challenge \"Code\" 1");
        assert_eq!(shown(&mut book).await, "ann: SCRV1:cGFzc3dvcmQ=:MTIzNDU2");

        let (refusal, _) = LoginRefusal::parse("CRV1:R,E:c3RhdGU=:YW5u:Another code");
        let ending = book.after(None, Some(&refusal), refused());
        assert!(matches!(ending, Ending::Again));
        assert_eq!(shown(&mut book).await, "ann: CRV1::c3RhdGU=::654321");
        assert_eq!(*desk.asked.lock().unwrap(), ["password of ann", "Code", "Another code"]);
    }

    fn typed(answer: Option<(AskId, Answer)>) -> (AskId, Secret) {
        let Some((ask, Answer::Prompted(Some(field)))) = answer else { panic!("{answer:?}") };
        (ask, field)
    }

    #[tokio::test]
    async fn a_renegotiation_gets_the_password_from_where_it_came_first() {
        // Nobody is at a terminal: the login is in a file, and a file answers no questions.
        let desk = Arc::new(Typist { is_away: true, ..Typist::typing(&["one", "two"]) });
        let mut book = book(&desk, "auth-nocache");
        assert_eq!(shown(&mut book).await, "ann: one");

        let (answers, mut answered) = mpsc::unbounded_channel();
        book.ask_password_beside(AskId(7), "somebody".to_owned(), answers);

        let (ask, field) = typed(answered.recv().await);
        assert_eq!((ask, field.expose()), (AskId(7), &b"two"[..]));
        assert_eq!(desk.asked.lock().unwrap()[1], "password of ann");
    }

    #[tokio::test]
    async fn a_renegotiation_answers_the_profiles_question_too() {
        let desk = Typist::who_types(&["one", "111", "two", "222"]);
        let mut book = book(&desk, "auth-nocache\nstatic-challenge \"Code\" 1 concat");
        assert_eq!(shown(&mut book).await, "ann: one111");

        let (answers, mut answered) = mpsc::unbounded_channel();
        book.ask_password_beside(AskId(1), "ann".to_owned(), answers);

        assert_eq!(typed(answered.recv().await).1.expose(), b"two222");
    }

    #[tokio::test]
    async fn a_user_interface_packs_its_answers_itself() {
        let types = vec!["token", "three", "CRV1::abc::two", "SCRV1:b25l:MQ=="];
        let retry = Some(AuthRetry::Ask);
        let desk = Typist { packs: true, types: Mutex::new(types), retry, ..Typist::default() };
        let desk = Arc::new(desk);
        let mut book = book(&desk, "static-challenge \"Code\" 1");
        assert_eq!(shown(&mut book).await, "ann: SCRV1:b25l:MQ==");
        // Once more, as it was typed.
        assert_eq!(shown(&mut book).await, "ann: SCRV1:b25l:MQ==");

        let (refusal, _) = LoginRefusal::parse("CRV1:R:abc:YW5u:Another");
        assert!(matches!(book.after(None, Some(&refusal), refused()), Ending::Again));
        assert_eq!(shown(&mut book).await, "ann: CRV1::abc::two");
        let denied = book.after(None, Some(&LoginRefusal::Denied), refused());
        assert!(matches!(denied, Ending::Again), "{denied:?}");
        assert_eq!(shown(&mut book).await, "ann: three");

        book.after(Some(&token()), None, Ending::Lost("gone".to_owned()));
        assert_eq!(shown(&mut book).await, "ann: token");
        desk.forgotten.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(shown(&mut book).await, "ann: token", "typed again");
        let asked = ["Code", "login", "Code", "Code"];
        assert_eq!(*desk.asked.lock().unwrap(), asked);
    }

    #[tokio::test]
    async fn an_answer_may_be_appended_to_the_password() {
        let desk = Typist::who_types(&["password", "123456"]);
        let mut book = book(&desk, "static-challenge \"Code\" 1 concat");
        assert_eq!(shown(&mut book).await, "ann: password123456");
    }

    #[tokio::test]
    async fn without_a_person_a_question_is_one_clear_line() {
        let desk = Arc::new(Typist { is_away: true, ..Typist::default() });
        let mut book = book(&desk, "auth-retry interact");

        let (refusal, _) = LoginRefusal::parse("CRV1:R:x:YW5u:Code");
        let Ending::Refused(why) = book.after(None, Some(&refusal), refused()) else { panic!() };
        assert_eq!(why, "no; run this in a terminal to answer");
        let ending = book.after(None, Some(&LoginRefusal::Denied), refused());
        assert!(matches!(ending, Ending::Refused(_)));
        assert!(book.conduct().await.is_err());
    }

    #[tokio::test]
    async fn a_refused_password_ends_it_is_tried_again_or_asked_for_again() {
        for (lines, expected) in
            [("", "ended"), ("auth-retry nointeract", "failed"), ("auth-retry interact", "again")]
        {
            let desk = Typist::who_types(&["one", "two"]);
            let mut book = book(&desk, lines);
            shown(&mut book).await;

            let word = match book.after(None, Some(&LoginRefusal::Denied), refused()) {
                Ending::Refused(_) => "ended",
                Ending::Failed(_) => "failed",
                Ending::Again => "again",
                other => panic!("{other:?}"),
            };

            assert_eq!(word, expected);
            if word == "again" {
                assert_eq!(shown(&mut book).await, "ann: two");
            }
        }
    }

    #[tokio::test]
    async fn a_login_from_a_file_is_read_again_and_tried_at_leisure() {
        for is_away in [false, true] {
            let typist = Typist::typing(&["one", "two"]);
            let desk = Arc::new(Typist { is_away, has_a_file: true, ..typist });
            let mut book = book(&desk, "auth-retry interact");
            shown(&mut book).await;

            let ending = book.after(None, Some(&LoginRefusal::Denied), refused());

            assert!(matches!(ending, Ending::Failed(_)), "{ending:?}");
            assert_eq!(shown(&mut book).await, "ann: two");
        }
    }

    #[tokio::test]
    async fn a_server_says_when_to_come_back() {
        let mut book = book(&Typist::who_types(&[]), "");
        let (refusal, _) = LoginRefusal::parse("TEMP[backoff 42,advance no]:later");

        let ending = book.after(None, Some(&refusal), Ending::Failed("later".to_owned()));

        assert!(matches!(ending, Ending::Failed(_)));
        assert_eq!(book.backoff, Some(Duration::from_secs(42)));
    }
}
