use wire::ethernet::Head;
use wire::ip;
use wire::neighbour::{Arp, Discovery};

/// A frame from anybody: heads, ARP and neighbour discovery.
pub(crate) fn ethernet(bytes: &[u8]) {
    let Ok(head) = Head::parse(bytes) else { return };
    let payload = bytes.get(head.payload..).expect("the head is inside the frame");
    if let Ok(arp) = Arp::parse(payload) {
        assert_eq!(Arp::parse(&arp.write()), Ok(arp));
    }
    if let Ok(ip) = ip::Head::parse(payload) {
        let _ = Discovery::kind(&ip, payload);
        let _ = Discovery::parse(&ip, payload);
    }
}
