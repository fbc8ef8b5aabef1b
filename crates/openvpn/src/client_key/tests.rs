//! The known key of OpenVPN's unit tests (test_tls_crypt.c), and abuse of it.

use super::*;
use crate::static_key::Half;

/// Server key 00..7f, client key 00..ff, metadata of type 0: 00 41 08 20 c3.
const WRAPPED: &str = "\
ae2nVYKqFwuMlBj+KCSM23dhvqLSd6oWR+s6nZQINzPpFIm08tlu844pQeTarDE9hSwUKfP8hZXr9mItGtpvNSlLyhI3UdLo\
/uqoB2scqB+FVMdqx1J/ZR0xM8LscGCc/0uXQWEo3SHu9LNtu3tAzvAf2avV5xz8y3RJhbaWnABok5tgZPKTqFOBabSD8wuv\
Cisut7NOpQcFnNWy74sPKotYrWXMk13roy406wYDhgV9sKwOHyfcf4LDWTlg0FkNhgk61VSAFZeF47q+Cg6aoN0jR0BDeFWj\
0MT5KQIWOB+XgVjbIsSH1lVlmuXV4PU7CH9fXvwKQesEliX0s1BLJAQqUMZbAEtD+ljeq2Ny2velXrYw9B0Gj7WVyyMMIlVA\
DpdTKW1qzgEp";

fn server_key() -> ServerKey {
    ServerKey::from_bytes(std::array::from_fn(|n| n as u8))
}

fn client_key() -> StaticKey {
    StaticKey::from_bytes(std::array::from_fn(|n| n as u8))
}

fn id(byte: u8) -> ClientKeyId {
    ClientKeyId([byte; 16])
}

#[test]
fn the_published_key_unwraps_and_wraps_again() {
    let wrapped = STANDARD.decode(WRAPPED).unwrap();
    assert_eq!(wrapped.len(), 0x129);

    let unwrapped = server_key().unwrap(&wrapped).unwrap();

    assert_eq!(unwrapped.key.bytes(), client_key().bytes());
    assert_eq!(unwrapped.metadata, Metadata { issued: None, id: None });
    let metadata = [0, 0, 0, 0x41, 0x08, 0x20, 0xc3];
    assert_eq!(server_key().wrap(&client_key(), &metadata).unwrap().wrapped(), wrapped);
}

#[test]
fn our_metadata_says_which_key_and_how_old() {
    let wrapped = server_key().wrap(&client_key(), &Metadata::write(1_780_000_000, id(7))).unwrap();

    let unwrapped = server_key().unwrap(wrapped.wrapped()).unwrap();

    let expected = Metadata { issued: Some(1_780_000_000), id: Some(id(7)) };
    assert_eq!(unwrapped.metadata, expected);
    assert_eq!(unwrapped.key.cipher(Half::K1), client_key().cipher(Half::K1));
}

#[test]
fn metadata_of_others_is_read_as_far_as_it_goes() {
    for (bytes, issued) in [
        (&[][..], None),
        (&[0][..], None),
        (&[1][..], None),
        (&[1, 0, 0, 0, 0, 0, 0, 0][..], None),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 9][..], Some(9)),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2][..], Some(9)),
        (&[2, 0, 0, 0, 0, 0, 0, 0, 9][..], None),
    ] {
        let wrapped = server_key().wrap(&client_key(), bytes).unwrap();
        let metadata = server_key().unwrap(wrapped.wrapped()).unwrap().metadata;
        assert_eq!(metadata, Metadata { issued, id: None }, "{bytes:?}");
    }
}

#[test]
fn every_truncation_and_corruption_of_a_wrapped_key_is_refused() {
    let wrapped = STANDARD.decode(WRAPPED).unwrap();
    let key = server_key();
    for len in 0..wrapped.len() {
        assert!(key.unwrap(&wrapped[..len]).is_err(), "{len} bytes");
        assert!(key.unwrap(&wrapped[len + 1..]).is_err(), "without {len} bytes");
    }
    for bit in 0..wrapped.len() * 8 {
        let mut copy = wrapped.clone();
        copy[bit / 8] ^= 1 << (bit % 8);
        assert!(key.unwrap(&copy).is_err(), "bit {bit}");
    }
    let other = ServerKey::from_bytes([9; SERVER_KEY_LEN]);
    assert_eq!(other.unwrap(&wrapped).err(), Some(Discard::AuthFailed));
}

#[test]
fn a_length_that_is_a_lie_never_reaches_beyond_the_packet() {
    let wrapped = STANDARD.decode(WRAPPED).unwrap();
    let packet = [&[0x50][..], &wrapped].concat();
    assert_eq!(split_wrapped(&packet), Ok((&[0x50][..], &wrapped[..])));
    // The first byte of a packet is never part of a key, nor is there a packet without one.
    assert_eq!(split_wrapped(&wrapped), Err(Discard::Malformed));
    for len in 0..=u16::MAX {
        let mut copy = packet.clone();
        let at = copy.len() - 2;
        copy[at..].copy_from_slice(&len.to_be_bytes());
        match split_wrapped(&copy) {
            Ok((own, key)) => {
                assert_eq!(key.len(), usize::from(len));
                assert!(!own.is_empty() && own.len() + key.len() == copy.len());
            }
            Err(error) => assert_eq!(error, Discard::Malformed),
        }
    }
    for len in 0..LEN_LEN {
        assert!(split_wrapped(&packet[..len]).is_err());
    }
}

#[test]
fn keys_survive_their_text_form() {
    let client = server_key().wrap(&client_key(), &Metadata::write(1, id(1))).unwrap();

    let server = ServerKey::parse(&format!("# mine\n{}\n", *server_key().to_pem())).unwrap();
    let again = ClientKey::parse(&client.to_pem().replace('\n', "\r\n")).unwrap();

    assert_eq!(*server.bytes, *server_key().bytes);
    assert_eq!((again.key().bytes(), again.wrapped()), (client.key().bytes(), client.wrapped()));
    assert!(client.to_pem().lines().all(|line| line.len() <= 64));
    assert_eq!(format!("{client:?}{server:?}"), "ClientKey(..)ServerKey(..)");
}

#[test]
fn a_damaged_file_says_what_is_wrong() {
    let client = server_key().wrap(&client_key(), &[]).unwrap().to_pem();
    for len in 0..client.trim_end().len() {
        assert!(ClientKey::parse(&client[..len]).is_err(), "{len} characters");
    }
    let fifth = client.lines().nth(5).unwrap();
    let shorter = client.replacen(&format!("{fifth}\n"), "", 1);
    assert_eq!(ClientKey::parse(&shorter).err(), Some(BadClientKey::WrongLength));
    let damaged = client.replacen('\n', "\n!", 1);
    assert_eq!(ClientKey::parse(&damaged).err(), Some(BadClientKey::NotBase64));
    let server = server_key().to_pem();
    assert_eq!(ClientKey::parse(&server).err(), Some(BadClientKey::ServersKey));
    assert_eq!(ServerKey::parse(&client).err(), Some(BadClientKey::NoKey(SERVER)));
    let short = server.replacen('A', "", 4);
    assert!(ServerKey::parse(&short).is_err());
}

#[test]
fn metadata_that_does_not_fit_is_refused() {
    let key = server_key();
    let full = key.wrap(&client_key(), &[1; MAX_METADATA]).unwrap();
    assert_eq!(full.wrapped().len(), 1024);
    assert!(key.unwrap(full.wrapped()).is_ok());
    assert!(key.wrap(&client_key(), &[1; MAX_METADATA + 1]).is_err());
}

#[test]
fn age_is_counted_from_the_day_of_issue() {
    let day = Duration::from_secs(86_400);
    assert!(is_young(None, None, 0));
    assert!(is_young(Some(1000), Some(day), 1000 + 86_400));
    assert!(!is_young(Some(1000), Some(day), 1001 + 86_400));
    assert!(is_young(Some(1000), Some(day), 0), "a clock that was set back");
    assert!(!is_young(None, Some(day), 0), "no date is no proof of youth");
}
