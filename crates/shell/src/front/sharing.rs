//! Connections that are somebody else's: the server that shares the port.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

/// How long the server may take to answer, its name included.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long a name stands for the same addresses, or for none.
const NAME_TIME: Duration = Duration::from_secs(10);
/// How long a connection may carry nothing in either direction.
const IDLE_TIME: Duration = Duration::from_secs(3600);
/// Bytes under way in each direction.
const COPY_ROOM: usize = 16 * 1024;

/// Hands connections on.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// The last name that was looked up; held while somebody looks. Strangers must not fill the
    /// threads on which names are looked up: passwords are hashed there, too.
    known: Arc<Mutex<Option<Known>>>,
}

#[derive(Debug)]
struct Known {
    target: (String, u16),
    /// What was found, or why nothing was.
    addresses: Result<Vec<SocketAddr>, String>,
    until: Instant,
}

impl Sharing {
    /// Hands a connection to another server, with what was read of it.
    pub(super) async fn share(
        &self,
        stream: TcpStream,
        first: &[u8],
        target: &(String, u16),
    ) -> io::Result<()> {
        let connecting = async {
            let addresses = self.resolve(target, lookup(target.clone())).await?;
            TcpStream::connect(&addresses[..]).await
        };
        let (host, port) = target;
        let mut server = match timeout(CONNECT_TIME, connecting).await {
            Ok(Ok(server)) => server,
            Ok(Err(error)) => {
                warn!(%host, port, %error, "doors.openvpn.port_share does not answer");
                return Err(error);
            }
            Err(late) => {
                warn!(%host, port, "doors.openvpn.port_share does not answer");
                return Err(late.into());
            }
        };
        sys::tcp::keep_alive(&stream)?;
        sys::tcp::keep_alive(&server)?;
        server.write_all(first).await?;
        relay(stream, server, IDLE_TIME).await
    }

    /// The addresses of a name, which is looked up by one at a time, and also if they give up.
    async fn resolve<F>(&self, target: &(String, u16), lookup: F) -> io::Result<Vec<SocketAddr>>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        let mut known = Arc::clone(&self.known).lock_owned().await;
        if let Some(known) = &*known
            && known.target == *target
            && Instant::now() < known.until
        {
            return known.addresses.clone().map_err(io::Error::other);
        }
        let target = target.clone();
        let looking = tokio::spawn(async move {
            let addresses = lookup.await.map_err(|error| error.to_string());
            let until = Instant::now() + NAME_TIME;
            *known = Some(Known { target, addresses: addresses.clone(), until });
            addresses
        });
        looking.await?.map_err(io::Error::other)
    }
}

async fn lookup((host, port): (String, u16)) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host.as_str(), port)).await?.collect())
}

/// Carries bytes both ways until both ends have said everything, or nobody says anything.
async fn relay(mut one: TcpStream, mut other: TcpStream, idle: Duration) -> io::Result<()> {
    let (from_one, to_one) = one.split();
    let (from_other, to_other) = other.split();
    let moved = Notify::new();
    let both = async {
        tokio::try_join!(copy(from_one, to_other, &moved), copy(from_other, to_one, &moved))
    };
    let silence = async {
        loop {
            tokio::select! {
                () = moved.notified() => {}
                () = sleep(idle) => break,
            }
        }
    };
    tokio::select! {
        ended = both => ended.map(|_| ()),
        () = silence => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Carries bytes one way, end included.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Notify,
) -> io::Result<()> {
    let mut room = vec![0; COPY_ROOM];
    loop {
        let len = from.read(&mut room).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        to.write_all(&room[..len]).await?;
        moved.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_for_all_who_wait_even_if_they_leave() {
        let (sharing, lookups) = (Sharing::default(), Arc::new(AtomicUsize::new(0)));
        let open = Arc::new(Notify::new());
        let target = ("web.example".to_owned(), 443);
        let address: SocketAddr = "192.0.2.1:443".parse().unwrap();
        let look = || {
            let (lookups, open) = (Arc::clone(&lookups), Arc::clone(&open));
            let lookup = async move {
                lookups.fetch_add(1, Ordering::Relaxed);
                open.notified().await;
                Ok(vec![address])
            };
            sharing.resolve(&target, lookup)
        };

        // The first gives up.
        let brief = Duration::from_millis(50);
        assert!(timeout(brief, look()).await.is_err() && timeout(brief, look()).await.is_err());
        open.notify_one();
        for _ in 0..50 {
            assert_eq!(look().await.unwrap(), [address]);
        }

        assert_eq!(lookups.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_connection_that_nobody_uses_ends_and_one_that_is_used_goes_on() {
        let ((mut client, one), (other, mut server)) = (pair().await, pair().await);
        let idle = Duration::from_millis(400);
        let relayed = tokio::spawn(relay(one, other, idle));
        let started = Instant::now();

        let mut byte = [0];
        while started.elapsed() < idle * 2 {
            server.write_all(b"x").await.unwrap();
            client.read_exact(&mut byte).await.unwrap();
        }
        let used_until = Instant::now();

        let ended = timeout(PATIENCE, relayed).await.unwrap().unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(used_until.elapsed() >= idle / 2);
        assert_eq!(client.read(&mut byte).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn one_end_may_stop_talking_and_still_listen() {
        let ((mut client, one), (other, mut server)) = (pair().await, pair().await);
        let relayed = tokio::spawn(relay(one, other, PATIENCE));

        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();

        assert_eq!((&question[..], &answer[..]), (&b"question"[..], &b"answer"[..]));
        timeout(PATIENCE, relayed).await.unwrap().unwrap().unwrap();
    }
}
