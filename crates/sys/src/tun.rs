//! TUN devices with several queues, virtio headers and segmentation offload.

use std::ffi::{c_int, c_ulong};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use dataplane::{Offloads, TunIo};
use socket2::{Domain, Socket, Type};

const DEVICE: &str = "/dev/net/tun";

/// The longest interface name, without the terminating zero (`IFNAMSIZ`, linux/if.h).
const MAX_NAME: usize = 15;

/// Packets a queue holds for us. The default of 500 is a few milliseconds of a fast link, which
/// one descheduling of a worker overflows.
const QUEUE_LEN: c_int = 2048;

const TCP_OFFLOADS: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
/// Known to Linux from 6.2 on, and only to be had together.
const UDP_OFFLOADS: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// A TUN or TAP device that exists for as long as any of its queues is open.
#[derive(Debug)]
pub struct Tun {
    name: String,
    queues: Vec<TunQueue>,
    offloads: Offloads,
}

/// One queue of a TUN or TAP device; the kernel keeps a flow on one queue.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
    offloads: Offloads,
}

/// `struct ifreq` (linux/if.h) with the one member that is used, at the front of its union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; MAX_NAME + 1],
    value: [u8; 24],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

impl Tun {
    /// Makes a device with `queues` queues. `name` may hold one `%d` for a number that is free.
    ///
    /// The device has no address and is down.
    ///
    /// # Errors
    ///
    /// Says in one line what is missing: the TUN driver, the permission, or a free name.
    pub fn open(name: &str, queues: usize) -> io::Result<Self> {
        Self::open_kind(libc::IFF_TUN, name, queues)
    }

    /// The same for a TAP device, which carries Ethernet frames.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_tap(name: &str, queues: usize) -> io::Result<Self> {
        Self::open_kind(libc::IFF_TAP, name, queues)
    }

    fn open_kind(kind: c_int, name: &str, queues: usize) -> io::Result<Self> {
        let mut request = InterfaceRequest { name: [0; MAX_NAME + 1], value: [0; 24] };
        if name.is_empty() || name.len() > MAX_NAME || name.contains(['/', '\0']) {
            let reason = format!("the TUN device name {name:?} must have 1 to {MAX_NAME} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());

        let mut files = Vec::new();
        for _ in 0..queues.max(1) {
            let file = open_device()?;
            attach(&file, kind, &mut request).map_err(|error| explain(name, &error))?;
            files.push(file);
        }
        let len = request.name.iter().position(|byte| *byte == 0).unwrap_or(MAX_NAME);
        let name = String::from_utf8_lossy(&request.name[..len]).into_owned();
        let offloads = negotiate(&files[0]);
        // A shorter queue only loses packets earlier.
        let _ = set_queue_len(&request, QUEUE_LEN);
        let queues = files.into_iter().map(|file| TunQueue { file, offloads }).collect();

        Ok(Self { name, queues, offloads })
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel agreed to.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// The queues, one for each worker.
    #[must_use]
    pub fn queues(self) -> Vec<TunQueue> {
        self.queues
    }
}

impl TunQueue {
    /// What the kernel agreed to.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl TunIo for TunQueue {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        // The driver takes a packet whole or not at all.
        self.file.write_vectored(pieces).map(|_| ())
    }
}

fn open_device() -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(DEVICE);
    opened.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "load the driver with `modprobe tun`",
            io::ErrorKind::PermissionDenied => "run as root or allow the device",
            _ => "check that the tun driver is loaded",
        };
        io::Error::new(error.kind(), format!("cannot open {DEVICE}: {error}; {advice}"))
    })
}

fn explain(name: &str, error: &io::Error) -> io::Error {
    let advice = match error.raw_os_error() {
        Some(libc::EPERM) => "run as root or with CAP_NET_ADMIN",
        Some(libc::EBUSY) => "another program uses that name; choose another",
        Some(libc::EINVAL) => "an interface of that name exists and is no multi-queue TUN device",
        _ => "check `dmesg`",
    };
    let reason = format!("cannot make the TUN device {name}: {error}; {advice}");
    io::Error::new(error.kind(), reason)
}

/// Adds a queue to the device that `request` names, or makes the device and fills in its name.
fn attach(file: &File, kind: c_int, request: &mut InterfaceRequest) -> io::Result<()> {
    let flags = kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    // The flags are a `short`; all of them fit.
    request.value[..2].copy_from_slice(&(flags as u16).to_ne_bytes());
    let request: *mut InterfaceRequest = request;

    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size and layout
    // `InterfaceRequest` has; it is alive and exclusively ours during the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request) })
}

/// Asks for every offload, then for less, and says what it got.
fn negotiate(file: &File) -> Offloads {
    let ask = |offloads: u32| {
        // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
        check(unsafe {
            libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(offloads))
        })
    };
    if ask(TCP_OFFLOADS | UDP_OFFLOADS).is_ok() {
        Offloads { gso: true, uso: true }
    } else if ask(TCP_OFFLOADS).is_ok() {
        Offloads { gso: true, uso: false }
    } else {
        Offloads::default()
    }
}

fn set_queue_len(device: &InterfaceRequest, len: c_int) -> io::Result<()> {
    let mut request = InterfaceRequest { name: device.name, value: [0; 24] };
    request.value[..4].copy_from_slice(&len.to_ne_bytes());
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let request: *mut InterfaceRequest = &mut request;

    // SAFETY: SIOCSIFTXQLEN reads one `struct ifreq`, whose size and layout `InterfaceRequest`
    // has; it is alive during the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN, request) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_is_refused_before_the_kernel_is_asked() {
        for name in ["", "a-name-of-sixteen", "a/b", "a\0b"] {
            let error = Tun::open(name, 1).unwrap_err();

            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }

    #[test]
    fn a_device_has_as_many_queues_as_asked_for_and_a_name_of_its_own() {
        if !crate::netns::enter_fresh() {
            return;
        }
        let first = Tun::open("unit%d", 2).unwrap();
        let second = Tun::open("unit%d", 1).unwrap();

        assert_eq!((first.name(), second.name()), ("unit0", "unit1"));
        let mut queues = first.queues();
        let empty = queues[1].read(&mut [0; 100]).unwrap_err();
        assert_eq!((queues.len(), empty.kind()), (2, io::ErrorKind::WouldBlock));
    }

    #[test]
    fn a_device_for_frames_is_another_kind() {
        if !crate::netns::enter_fresh() {
            return;
        }
        let tap = Tun::open_tap("unit%d", 1).unwrap();

        assert_eq!((tap.name(), tap.offloads().gso), ("unit0", true));
        let error = Tun::open("unit0", 1).unwrap_err().to_string();
        assert!(error.contains("unit0"), "{error}");
    }

    #[test]
    fn a_name_in_use_is_an_error_that_says_so() {
        if !crate::netns::enter_fresh() {
            return;
        }
        let error = Tun::open("lo", 1).unwrap_err().to_string();

        assert!(error.contains("lo") && error.contains("no multi-queue TUN"), "{error}");
    }
}
