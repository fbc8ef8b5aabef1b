//! Conversations with a proxy, until the stream behind it is the server's.

use std::io;
use std::net::SocketAddr;

use ::proxy::{Bound, Command, HttpConnect, HttpStep, ProxyError, Socks, SocksStep, Target};
use backends::random_bytes;
use openvpn::{Proxy, ProxyKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::transport::Dial;

/// Read at once: a proxy's answers are short.
const CHUNK: usize = 2048;

/// Why a conversation came to nothing; one line for the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("the proxy cannot be reached: {0}")]
    Io(#[from] io::Error),
    #[error("the proxy hangs up in the middle of the conversation")]
    HungUp,
    #[error("the proxy cannot do that: {0}")]
    Cannot(&'static str),
}

/// Asks the proxy for a stream to `target`; what came with it is the target's.
pub(super) async fn stream(
    proxy: &Proxy,
    target: Target,
    dial: &Dial,
) -> Result<(TcpStream, Vec<u8>), Failure> {
    match &proxy.kind {
        ProxyKind::Http { allowed, options } => {
            let (options, login) = (options.clone(), proxy.login.clone());
            let seed = random_bytes();
            let mut attempt = HttpConnect::new(target, options, *allowed, login, seed)?;
            loop {
                let mut connection = dial.connect().await?;
                connection.write_all(&attempt.request()?).await?;
                let step = loop {
                    match attempt.read(&read(&mut connection).await?)? {
                        HttpStep::More => {}
                        step => break step,
                    }
                };
                if let HttpStep::Through { rest } = step {
                    return Ok((connection, rest));
                }
            }
        }
        ProxyKind::Socks => {
            let mut connection = dial.connect().await?;
            let (_, rest) = socks(proxy, Command::Connect(target), &mut connection).await?;
            Ok((connection, rest))
        }
    }
}

/// Asks the proxy to relay datagrams: where to send them, and the connection that keeps the relay
/// going.
pub(super) async fn association(
    proxy: &Proxy,
    dial: &Dial,
) -> Result<(SocketAddr, TcpStream), Failure> {
    if !matches!(proxy.kind, ProxyKind::Socks) {
        return Err(Failure::Cannot("an HTTP proxy carries no datagrams"));
    }
    let mut connection = dial.connect().await?;
    let (bound, _) = socks(proxy, Command::Associate, &mut connection).await?;
    let relay = bound.relay(connection.peer_addr()?.ip().to_canonical())?;
    Ok((relay, connection))
}

async fn socks(
    proxy: &Proxy,
    command: Command,
    connection: &mut TcpStream,
) -> Result<(Bound, Vec<u8>), Failure> {
    let (mut machine, greeting) = Socks::new(command, proxy.login.clone())?;
    connection.write_all(&greeting).await?;
    loop {
        match machine.read(&read(connection).await?)? {
            SocksStep::More => {}
            SocksStep::Send(message) => connection.write_all(&message).await?,
            SocksStep::Through { bound, rest } => return Ok((bound, rest)),
        }
    }
}

async fn read(connection: &mut TcpStream) -> Result<Vec<u8>, Failure> {
    let mut chunk = vec![0; CHUNK];
    match connection.read(&mut chunk).await? {
        0 => Err(Failure::HungUp),
        len => {
            chunk.truncate(len);
            Ok(chunk)
        }
    }
}

/// Returns when the connection that keeps a relay going has ended; never without one.
pub(super) async fn ended(association: &mut Option<TcpStream>) {
    let Some(connection) = association else { return std::future::pending().await };
    let mut ignored = [0; 256];
    // The proxy has nothing to say any more; if it does, nobody listens.
    while matches!(connection.read(&mut ignored).await, Ok(1..)) {}
    *association = None;
}

#[cfg(test)]
mod tests;
