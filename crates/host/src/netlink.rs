//! Netlink by hand: enough of the message format for rtnetlink and nf_tables (RFC 3549, 2.2).
//!
//! ```text
//!   nlmsghdr (16 bytes) | fixed header of the family | attributes: length, type, value, padding
//! ```

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// Ask for every object.
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// Fail if it exists.
pub(crate) const NLM_F_EXCL: u16 = 0x200;
/// Make it if it does not exist.
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// Add to the end of the list.
pub(crate) const NLM_F_APPEND: u16 = 0x800;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER_LEN: usize = 16;
/// Dumps come in buffers of at most 32 KiB (`NLMSG_GOODSIZE` and what the kernel grows it to).
const RECEIVE_LEN: usize = 64 * 1024;
/// The kernel answers within the call; this only bounds what a bug could cost.
const PATIENCE: TimeVal = TimeVal::new(10, 0);

/// A list of attributes under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(4 + value.len()).expect("attributes of ours are short");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// In network byte order, as nf_tables has it.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// With the terminating zero.
    pub(crate) fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) fixed: Vec<u8>,
    pub(crate) attributes: Attributes,
}

impl Message {
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8], attributes: Attributes) -> Self {
        Self { kind, flags, fixed: fixed.to_vec(), attributes }
    }

    fn write(&self, sequence: u32, out: &mut Vec<u8>) {
        let len = HEADER_LEN + self.fixed.len().next_multiple_of(4) + self.attributes.0.len();
        let len = u32::try_from(len).expect("messages of ours are short");
        out.extend_from_slice(&len.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0_u32.to_ne_bytes());
        out.extend_from_slice(&self.fixed);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(&self.attributes.0);
    }
}

/// One answer: what follows the netlink header.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) body: Vec<u8>,
}

/// A conversation with the kernel.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &PATIENCE)?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one request and returns the answers up to its end.
    pub(crate) fn ask(&mut self, mut message: Message) -> io::Result<Vec<Reply>> {
        if message.flags & NLM_F_DUMP != NLM_F_DUMP {
            message.flags |= NLM_F_ACK;
        }
        let sequence = self.send(std::slice::from_ref(&message))?;
        let mut replies = Vec::new();
        self.receive(sequence, sequence, &mut replies)?;
        Ok(replies)
    }

    /// Sends a batch that the kernel carries out as a whole or not at all; the messages between
    /// the first and the last (which only mark the batch) are acknowledged one by one.
    pub(crate) fn ask_all(&mut self, mut messages: Vec<Message>) -> io::Result<()> {
        let inner = messages.len().saturating_sub(2);
        for message in messages.iter_mut().skip(1).take(inner) {
            message.flags |= NLM_F_ACK;
        }
        let first = self.send(&messages)?;
        for sequence in (first + 1..).take(inner) {
            self.receive(first, sequence, &mut Vec::new())?;
        }
        Ok(())
    }

    /// Returns the sequence number of the first message.
    fn send(&mut self, messages: &[Message]) -> io::Result<u32> {
        let first = self.sequence + 1;
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence += 1;
            message.write(self.sequence, &mut bytes);
        }
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.fd.as_raw_fd(), &bytes, &kernel, MsgFlags::empty())?;
        Ok(first)
    }

    /// Collects until the message `sequence` has been answered; an error for any message since
    /// `first` is the answer to all of them.
    fn receive(&self, first: u32, sequence: u32, replies: &mut Vec<Reply>) -> io::Result<()> {
        let mut buffer = vec![0; RECEIVE_LEN];
        loop {
            let len = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => continue,
                len => len?,
            };
            let mut rest = buffer.get(..len).ok_or(io::ErrorKind::InvalidData)?;
            let mut answered = false;
            while let Some((header, body, tail)) = split_message(rest) {
                rest = tail;
                if !(first..=sequence).contains(&header.sequence) {
                    continue;
                }
                match header.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        if code != 0 {
                            return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                        }
                        answered |= header.sequence == sequence;
                    }
                    _ => replies.push(Reply { body: body.to_vec() }),
                }
            }
            if answered {
                return Ok(());
            }
        }
    }
}

struct Header {
    kind: u16,
    sequence: u32,
}

fn split_message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER_LEN..len)?;
    let header = Header { kind: u16_at(bytes, 4)?, sequence: u32_at(bytes, 8)? };
    Some((header, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes in `bytes`, up to the first that does not fit.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A string attribute without its terminating zero.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_written() {
        let written =
            Attributes::new().string(3, "lo").nest(2, &Attributes::new().be32(1, 7)).u32(9, 5);

        let read: Vec<_> = attributes(&written.0).collect();

        assert_eq!(read.len(), 3);
        assert_eq!((read[0].0, text(read[0].1)), (3, "lo".to_owned()));
        assert_eq!(attributes(read[1].1).next(), Some((1, &7_u32.to_be_bytes()[..])));
        assert_eq!(read[2], (9, &5_u32.to_ne_bytes()[..]));
    }

    #[test]
    fn attributes_with_lying_lengths_end_the_list() {
        let written = Attributes::new().u32(1, 2).0;

        for at in 0..4 {
            for value in 0..=u8::MAX {
                let mut bytes = written.clone();
                bytes[at] = value;
                assert!(attributes(&bytes).count() <= 2);
                assert!(attributes(&bytes[..at]).count() == 0);
            }
        }
    }
}
