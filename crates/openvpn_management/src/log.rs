//! The last lines of the log, and those to come, for consoles.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use openvpn::management::{Show, one_line};
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{DynFilterFn, LevelFilter, dynamic_filter_fn};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

/// Lines that are remembered; OpenVPN's own default.
const REMEMBERED: usize = 250;
/// Lines that a slow console may be behind before it loses some.
const BEHIND: usize = 512;
/// The longest line, in bytes.
const MAX_LINE: usize = 1024;
/// OpenVPN's usual verbosity, which is our "info".
const VERB: u8 = 3;

/// Listens to the log. A clone listens to the same.
#[derive(Clone, Debug)]
pub struct LogTap(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    past: Mutex<Past>,
    live: broadcast::Sender<Arc<str>>,
    verb: AtomicU8,
    mute: AtomicU32,
    remembered: usize,
}

#[derive(Debug, Default)]
struct Past {
    lines: VecDeque<Arc<str>>,
    /// Where the last message came from, and how many of its kind came in a row.
    last: Option<(&'static str, u32)>,
    row: u32,
}

impl Default for LogTap {
    fn default() -> Self {
        Self::new()
    }
}

impl LogTap {
    /// A tap that has heard nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::remembering(REMEMBERED)
    }

    /// A tap that has heard nothing, and will remember so many lines.
    #[must_use]
    pub fn remembering(remembered: usize) -> Self {
        Self(Arc::new(Shared {
            past: Mutex::default(),
            live: broadcast::Sender::new(BEHIND),
            verb: VERB.into(),
            mute: 0.into(),
            remembered,
        }))
    }

    /// The layer that fills it, with a filter that follows `verb`.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + 'static + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        Tap(self.clone()).with_filter(self.filter())
    }

    fn filter<S: Subscriber>(&self) -> impl Filter<S> + Send + Sync + 'static + use<S> {
        let tap = self.clone();
        let is_wanted =
            move |metadata: &Metadata<'_>, _: &Context<'_, S>| *metadata.level() <= tap.level();
        let filter: DynFilterFn<S, _> = dynamic_filter_fn(is_wanted);
        filter.with_max_level_hint(LevelFilter::DEBUG)
    }

    fn level(&self) -> Level {
        match self.verb() {
            0 => Level::ERROR,
            1 | 2 => Level::WARN,
            3 => Level::INFO,
            _ => Level::DEBUG,
        }
    }

    pub(crate) fn verb(&self) -> u8 {
        self.0.verb.load(Ordering::Relaxed)
    }

    pub(crate) fn set_verb(&self, verb: u8) {
        self.0.verb.store(verb, Ordering::Relaxed);
    }

    pub(crate) fn mute(&self) -> u32 {
        self.0.mute.load(Ordering::Relaxed)
    }

    pub(crate) fn set_mute(&self, mute: u32) {
        self.0.mute.store(mute, Ordering::Relaxed);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.live.subscribe()
    }

    pub(crate) fn past(&self, show: Show) -> Vec<Arc<str>> {
        let past = self.0.past.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match show {
            Show::All => past.lines.len(),
            Show::Last(count) => count.min(past.lines.len()),
        };
        past.lines.iter().skip(past.lines.len().saturating_sub(count)).cloned().collect()
    }

    fn take(&self, metadata: &'static Metadata<'static>, text: &str) {
        let flag = match *metadata.level() {
            Level::ERROR => "N",
            Level::WARN => "W",
            Level::INFO => "I",
            _ => "D",
        };
        let kind = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
        let mut past = self.0.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.row = if past.last == Some(kind) { past.row.saturating_add(1) } else { 1 };
        past.last = Some(kind);
        let mute = self.mute();
        let text = match past.row {
            row if mute != 0 && row == mute.saturating_add(1) => "NOTE: --mute triggered...",
            row if mute != 0 && row > mute => return,
            _ => text,
        };
        let line = Arc::<str>::from(format!("{},{flag},{text}", crate::now()));
        past.lines.push_back(Arc::clone(&line));
        if past.lines.len() > self.0.remembered {
            past.lines.pop_front();
        }
        let _ = self.0.live.send(line);
    }
}

struct Tap(LogTap);

impl<S: Subscriber> Layer<S> for Tap {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.0.take(event.metadata(), &text.line());
    }
}

/// An event on one line: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn line(&self) -> String {
        let line = one_line(&format!("{}{}", self.message, self.fields));
        match line.char_indices().nth(MAX_LINE) {
            Some((end, _)) => line.get(..end).unwrap_or_default().to_owned(),
            None => line,
        }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn lines(tap: &LogTap) -> Vec<String> {
        let after_time = |line: &Arc<str>| line.split_once(',').unwrap().1.to_owned();
        tap.past(Show::All).iter().map(after_time).collect()
    }

    fn logged(tap: &LogTap, work: impl FnOnce()) {
        let subscriber = tracing_subscriber::registry().with(tap.layer());
        tracing::subscriber::with_default(subscriber, work);
    }

    #[test]
    fn a_message_is_one_line_with_its_flag_and_fields() {
        let tap = LogTap::new();
        let mut live = tap.listen();

        logged(&tap, || {
            tracing::info!(user = "anna\nEND", id = 7, "session up");
            tracing::warn!("twice\r");
            tracing::error!("thrice");
            tracing::debug!("not at verb 3");
        });

        let expected = ["I,session up user=anna_END id=7", "W,twice_", "N,thrice"];
        assert_eq!(lines(&tap), expected);
        assert!(live.try_recv().unwrap().ends_with(expected[0]));
        assert_eq!(tap.past(Show::Last(1)).len(), 1);
        assert_eq!(tap.past(Show::Last(usize::MAX)).len(), 3);
    }

    #[test]
    fn verb_says_how_much_and_mute_how_often() {
        let tap = LogTap::new();
        tap.set_verb(4);
        tap.set_mute(2);
        logged(&tap, || {
            tracing::debug!("a detail");
            for _ in 0..9 {
                tracing::warn!("again");
            }
            tracing::info!("another");
        });
        let expected =
            ["D,a detail", "W,again", "W,again", "W,NOTE: --mute triggered...", "I,another"];
        assert_eq!(lines(&tap), expected);
    }

    #[test]
    fn only_the_last_lines_are_remembered_and_none_is_long() {
        let tap = LogTap::new();
        logged(&tap, || {
            for number in 0..REMEMBERED + 10 {
                tracing::info!(number, "{}", "\u{e4}".repeat(5000));
            }
        });
        assert_eq!(tap.past(Show::All).len(), REMEMBERED);
        assert!(tap.past(Show::All).iter().all(|line| line.len() < 2 * MAX_LINE + 32));
    }
}
