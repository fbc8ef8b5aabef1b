//! Bodies of fuzz targets: whatever a proxy may answer.

use contract::Secret;

use crate::{
    Authentication, Command, HttpConnect, HttpOptions, HttpStep, Login, Socks, SocksStep, Target,
};

fn login() -> Option<Login> {
    Some(Login { user: "user".to_owned(), password: Secret::new("password") })
}

/// An HTTP proxy; a NUL ends each of its answers.
pub fn http(data: &[u8]) {
    let Ok(target) = Target::new("vpn.example", 443) else { return };
    let options = HttpOptions::default();
    let Ok(mut attempt) =
        HttpConnect::new(target, options, Authentication::Basic, login(), [7; 16])
    else {
        return;
    };
    for answer in data.split(|byte| *byte == 0) {
        let Ok(request) = attempt.request() else { return };
        let lines = request.windows(2).filter(|two| *two == b"\r\n").count();
        // Request line, Host, perhaps the proof, and the empty line.
        assert!((3..=4).contains(&lines));
        match attempt.read(answer) {
            Ok(HttpStep::Again) => {}
            Ok(HttpStep::More | HttpStep::Through { .. }) | Err(_) => return,
        }
    }
}

/// A SOCKS proxy, whose answers arrive in pieces of up to 7 bytes.
pub fn socks(data: &[u8]) {
    let Ok((mut socks, _)) = Socks::new(Command::Associate, login()) else { return };
    for piece in data.chunks(7) {
        match socks.read(piece) {
            Ok(SocksStep::Through { bound, .. }) => {
                if let Ok(relay) = bound.relay([192, 0, 2, 1].into()) {
                    assert!(relay.port() != 0 && !relay.ip().is_loopback());
                }
                return;
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
