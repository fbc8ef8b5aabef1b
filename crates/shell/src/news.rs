//! Sessions coming and going, told to whoever listens.

use std::sync::Arc;

use dataplane::PortTotals;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::driver::SessionInfo;

/// News that a slow listener may be behind; about 100 bytes each, and what they share.
const CAPACITY: usize = 1024;

/// What happened to a session.
#[derive(Clone, Debug)]
pub enum SessionNews {
    /// It carries packets.
    Up(Arc<SessionInfo>),
    /// The peer is at another address.
    Moved(Arc<SessionInfo>),
    /// It is gone. Said of every session that somebody was asked to judge.
    Ended {
        /// Which one.
        id: u64,
        /// What it was, if it ever carried packets.
        info: Option<Arc<SessionInfo>>,
        /// What it carried.
        totals: PortTotals,
    },
}

/// What a listener hears.
#[derive(Clone, Debug)]
pub enum Heard {
    /// The next piece.
    News(SessionNews),
    /// So many pieces came faster than they were taken, and are lost to this listener.
    Lost(u64),
}

/// A listener's end.
#[derive(Debug)]
pub struct News(broadcast::Receiver<SessionNews>);

impl News {
    /// The next piece; `None` once the server is gone.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.0.recv().await {
            Ok(news) => Some(Heard::News(news)),
            Err(RecvError::Lagged(count)) => Some(Heard::Lost(count)),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Where news is told.
#[derive(Debug)]
pub(crate) struct Newsroom(broadcast::Sender<SessionNews>);

impl Newsroom {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }

    pub(crate) fn listen(&self) -> News {
        News(self.0.subscribe())
    }

    /// Never waits; without listeners it costs nothing.
    pub(crate) fn tell(&self, news: impl FnOnce() -> Option<SessionNews>) {
        if self.0.receiver_count() > 0
            && let Some(news) = news()
        {
            let _ = self.0.send(news);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(id: u64) -> Option<SessionNews> {
        Some(SessionNews::Ended { id, info: None, totals: PortTotals::default() })
    }

    #[tokio::test]
    async fn a_slow_listener_loses_the_oldest_and_is_told_how_many() {
        let newsroom = Newsroom::new();
        let (mut slow, mut quick) = (newsroom.listen(), newsroom.listen());
        for id in 0..CAPACITY as u64 + 5 {
            newsroom.tell(|| ended(id));
            assert!(matches!(quick.next().await, Some(Heard::News(_))));
        }

        assert!(matches!(slow.next().await, Some(Heard::Lost(5))));
        let Some(Heard::News(SessionNews::Ended { id, .. })) = slow.next().await else { panic!() };
        assert_eq!(id, 5);
        drop(newsroom);
        let mut left = 0;
        while slow.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, CAPACITY - 1);
    }
}
