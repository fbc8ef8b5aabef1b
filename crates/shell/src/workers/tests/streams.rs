use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use dataplane::{BrokenStream, Framing};

use super::*;

const KIND: StreamKind = StreamKind::OpenVpn { mtu: 1400 };

fn framed(message: &[u8]) -> Vec<u8> {
    dataplane::framed(KIND.framing(), message)
}

impl Lab {
    /// A connection that the workers serve, and our end of it.
    fn connect(&self, id: StreamId, first: &[u8]) -> TcpStream {
        let listener = sys::tcp::listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let peer = TcpStream::connect(address).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.set_nodelay(true).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, remote) = listener.accept().unwrap();
        let io = TcpIo::new(accepted).unwrap();
        let (local, first) = (Some(address.ip()), first.to_vec());
        self.submit(vec![WorkerOp::AddStream { id, kind: KIND, io, local, remote, first }]);
        peer
    }

    fn heard(&mut self) -> (StreamId, Vec<u8>) {
        match self.event() {
            WorkerEvent::Datagram { path, bytes } => match path.carrier {
                Carrier::Stream(id) => (id, bytes),
                other => panic!("from {other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn closed(&mut self) -> (StreamId, StreamEnd) {
        loop {
            if let WorkerEvent::StreamClosed { stream, reason } = self.event() {
                return (stream, reason);
            }
        }
    }

    fn path_of(&self, stream: StreamId) -> Path {
        Path { carrier: Carrier::Stream(stream), ..self.path() }
    }
}

fn read_message(peer: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    peer.read_exact(&mut head).unwrap();
    let mut message = vec![0; u16::from_be_bytes(head).into()];
    peer.read_exact(&mut message).unwrap();
    message
}

#[test]
fn messages_arrive_whole_wherever_the_connection_cuts_them() {
    let mut lab = Lab::new(Vec::new(), 2);
    let bytes = [framed(&[7 << 3, 1]), framed(&[7 << 3; 900]), framed(&[7 << 3, 3])].concat();
    let mut peer = lab.connect(StreamId(1), &bytes[..3]);

    for byte in &bytes[3..] {
        peer.write_all(&[*byte]).unwrap();
    }

    assert_eq!(lab.heard(), (StreamId(1), vec![7 << 3, 1]));
    assert_eq!(lab.heard(), (StreamId(1), vec![7 << 3; 900]));
    assert_eq!(lab.heard(), (StreamId(1), vec![7 << 3, 3]));
    lab.workers.transmit(lab.path_of(StreamId(1)), b"answer").unwrap();
    assert_eq!(read_message(&mut peer), b"answer");
    lab.workers.stop();
}

#[test]
fn what_was_read_before_the_workers_had_the_stream_is_not_lost() {
    let mut lab = Lab::new(Vec::new(), 2);

    let _peer = lab.connect(StreamId(1), &[framed(&[7 << 3, 1]), framed(&[7 << 3, 2])].concat());

    assert_eq!(lab.heard().1, [7 << 3, 1]);
    assert_eq!(lab.heard().1, [7 << 3, 2]);
    lab.workers.stop();
}

#[test]
fn data_on_a_stream_goes_through_its_tunnel_both_ways() {
    let lab = Lab::new(Vec::new(), 3);
    let mut peer = lab.connect(StreamId(9), &[]);
    let (port, key) = (PortId(1), TunnelKey::OpenVpnStream { stream: StreamId(9), key_id: 0 });
    let (via, tunnel) = (Via::Path(lab.path_of(StreamId(9))), Arc::new(Null));
    lab.submit(vec![
        WorkerOp::DataPlane(DataPlaneOp::Install { key, port, via, tunnel }),
        WorkerOp::DataPlane(DataPlaneOp::SendVia { port, exit: Exit::Tunnel(key) }),
    ]);

    lab.workers.send_control(port, b"ping".to_vec());
    assert_eq!(read_message(&mut peer), [&[9 << 3, 0, 0, 1], &b"ping"[..]].concat());

    let packet = [&[9 << 3, 0, 0, 1, 0x45, 0, 0, 20][..], &[0; 16]].concat();
    peer.write_all(&framed(&packet)).unwrap();
    let start = std::time::Instant::now();
    while lab.workers.counters(port).rx_packets == 0 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    lab.workers.stop();
}

#[test]
fn the_end_of_a_stream_is_told_with_its_reason() {
    let mut lab = Lab::new(Vec::new(), 2);
    let quiet = lab.connect(StreamId(1), &[]);
    let (mut zero, mut long) = (lab.connect(StreamId(2), &[]), lab.connect(StreamId(3), &[]));
    let mut other = lab.connect(StreamId(4), &[]);

    drop(quiet);
    assert_eq!(lab.closed(), (StreamId(1), StreamEnd::Ended));
    zero.write_all(&[0, 0, 1]).unwrap();
    assert_eq!(lab.closed(), (StreamId(2), StreamEnd::Broken));
    long.write_all(&[0xff, 0xff]).unwrap();
    assert_eq!(lab.closed(), (StreamId(3), StreamEnd::Broken));

    for broken in [&mut zero, &mut long] {
        assert_eq!(broken.read(&mut [0; 9]).unwrap(), 0);
    }
    other.write_all(&framed(&[7 << 3, 5])).unwrap();
    assert_eq!(lab.heard(), (StreamId(4), vec![7 << 3, 5]));
    lab.workers.stop();
}

#[test]
fn the_end_of_a_stream_is_told_even_if_the_queue_was_full() {
    let mut lab = Lab::new(Vec::new(), 1);
    let mut peer = lab.connect(StreamId(1), &[]);
    for _ in 0..50 {
        peer.write_all(&framed(&[7 << 3])).unwrap();
    }
    drop(peer);
    while lab.workers.discards()[Discard::NoBuffer as usize] == 0 {
        std::thread::yield_now();
    }

    assert_eq!(lab.closed(), (StreamId(1), StreamEnd::Ended));
    lab.workers.stop();
}

#[test]
fn the_last_words_are_heard_before_a_stream_closes() {
    let lab = Lab::new(Vec::new(), 2);
    let mut peer = lab.connect(StreamId(1), &[]);
    // What nobody will read must not turn the goodbye into a reset.
    peer.write_all(&framed(&[7 << 3; 40])).unwrap();

    let start = std::time::Instant::now();
    lab.workers.transmit(lab.path_of(StreamId(1)), b"goodbye").unwrap();
    lab.submit(vec![WorkerOp::RemoveStream(StreamId(1))]);
    peer.write_all(&framed(&[7 << 3; 40])).unwrap();

    assert_eq!(read_message(&mut peer), b"goodbye");
    assert_eq!(peer.read(&mut [0; 9]).unwrap(), 0);
    assert!(start.elapsed() < Duration::from_secs(1), "there was nothing to wait for");
    let gone = lab.workers.transmit(lab.path_of(StreamId(1)), b"late");
    assert_eq!(gone, Err(Discard::NoRoute));
    lab.workers.stop();
}

#[test]
fn what_a_stalled_peer_was_promised_arrives_whole_once_it_reads() {
    let lab = Lab::new(Vec::new(), 1);
    let mut peer = lab.connect(StreamId(1), &[]);
    let path = lab.path_of(StreamId(1));
    let message = |n: u32| [&n.to_be_bytes()[..], &[7; 1200]].concat();

    let taken = (0..1_000_000).take_while(|n| lab.workers.transmit(path, &message(*n)).is_ok());
    let taken = taken.count() as u32;
    lab.submit(vec![WorkerOp::RemoveStream(StreamId(1))]);

    let mut heard = Vec::new();
    peer.read_to_end(&mut heard).unwrap();
    peer.shutdown(Shutdown::Both).unwrap();
    let mut messages = KIND.framing().cut(&mut heard);
    for n in 0..taken {
        assert_eq!(messages.next().unwrap(), message(n));
    }
    assert_eq!(messages.rest(), Ok::<_, BrokenStream>(&[][..]));
    assert!(taken > 100);
    lab.workers.stop();
}

#[test]
fn a_stalled_peer_is_choked_for_bulk_first_and_for_nothing_once_it_reads() {
    let lab = Lab::new(Vec::new(), 1);
    let mut peer = lab.connect(StreamId(1), &[]);
    let sender = Arc::clone(&lock(&lab.workers.0.control).streams[&StreamId(1)].1);
    let is_choked = || (sender.is_choked(1400), sender.is_choked(80));
    let transmit = || lab.workers.transmit(lab.path_of(StreamId(1)), &[7; 1200]).is_ok();
    assert_eq!(is_choked(), (false, false));

    while !is_choked().0 {
        assert!(transmit());
    }
    assert_eq!(is_choked(), (true, false));
    while transmit() {}
    assert_eq!(is_choked(), (true, true));

    let mut room = vec![0; 1 << 16];
    let start = std::time::Instant::now();
    peer.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    while is_choked() != (false, false) {
        // The last bytes may be here before the worker knows that they have left.
        match peer.read(&mut room) {
            Ok(len) => assert!(len > 0),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(start.elapsed() < PATIENCE);
    }
    lab.workers.stop();
}

#[test]
fn streams_are_spread_evenly_and_the_places_of_those_that_end_are_used_again() {
    let lab = Lab::new(Vec::new(), 3);
    let _peers = (0..9).map(|n| lab.connect(StreamId(n), &[])).collect::<Vec<_>>();
    let loads = || lock(&lab.workers.0.control).loads.clone();
    assert_eq!(loads(), [3, 3, 3]);

    lab.submit(vec![WorkerOp::RemoveStream(StreamId(1)), WorkerOp::RemoveStream(StreamId(4))]);
    assert_eq!(loads(), [3, 1, 3]);
    let _more = (10..12).map(|n| lab.connect(StreamId(n), &[])).collect::<Vec<_>>();

    assert_eq!(loads(), [3, 3, 3]);
    lab.workers.stop();
}

#[test]
fn a_limit_is_that_of_the_kind() {
    assert_eq!(KIND.framing(), Framing::Length16 { limit: 2304 });
}
