//! Who the process is and what it may do: users, capabilities, and giving them up for good.

use std::fs;
use std::io;

use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setegid, seteuid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
};

/// Linux has 41 capabilities and numbers them up to 63 at most (`capability.h`).
const MAX_CAPABILITIES: u32 = 64;

/// A power of root's that something here needs (capabilities(7)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Capability {
    /// To give files away.
    Chown,
    /// To read every file and enter every folder.
    DacReadSearch,
    /// To change the mode of other users' files.
    Fowner,
    /// To lock more memory than the limit says.
    IpcLock,
    /// TUN devices, addresses, routes, rules, nf_tables, `/proc/sys/net`, marks on packets.
    NetAdmin,
    /// Ports below 1024.
    NetBindService,
    /// To change groups.
    SetGid,
    /// To give up capabilities for good.
    SetPcap,
    /// To change the user.
    SetUid,
    /// To mount.
    SysAdmin,
    /// To raise limits.
    SysResource,
}

impl Capability {
    /// Its name in `capability.h`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chown => "CAP_CHOWN",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::Fowner => "CAP_FOWNER",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetBindService => "CAP_NET_BIND_SERVICE",
            Self::SetGid => "CAP_SETGID",
            Self::SetPcap => "CAP_SETPCAP",
            Self::SetUid => "CAP_SETUID",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
        }
    }

    fn bit(self) -> CapabilitySet {
        match self {
            Self::Chown => CapabilitySet::CHOWN,
            Self::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
            Self::Fowner => CapabilitySet::FOWNER,
            Self::IpcLock => CapabilitySet::IPC_LOCK,
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
            Self::NetBindService => CapabilitySet::NET_BIND_SERVICE,
            Self::SetGid => CapabilitySet::SETGID,
            Self::SetPcap => CapabilitySet::SETPCAP,
            Self::SetUid => CapabilitySet::SETUID,
            Self::SysAdmin => CapabilitySet::SYS_ADMIN,
            Self::SysResource => CapabilitySet::SYS_RESOURCE,
        }
    }
}

/// A user and its group, by number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Account {
    /// The user.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
}

impl Account {
    /// The one that may do everything.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// Whether the calling thread has the capability in force.
#[must_use]
pub fn has(capability: Capability) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(capability.bit()))
}

/// Whether the process's user is root, whatever root may do here.
#[must_use]
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Whether the user and group exist in the user namespace of this process: a container may have
/// only some.
#[must_use]
pub fn is_mapped(account: Account) -> bool {
    let covers = |file: &str, id: u32| {
        let Ok(map) = fs::read_to_string(file) else { return true };
        map.lines().any(|line| {
            let mut words = line.split_whitespace().map(str::parse::<u64>);
            let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
                (words.next(), words.next(), words.next())
            else {
                return false;
            };
            let id = u64::from(id);
            first <= id && id - first < count
        })
    };
    covers("/proc/self/uid_map", account.uid) && covers("/proc/self/gid_map", account.gid)
}

/// Becomes the user, keeps these capabilities at most, and makes sure that neither this process
/// nor what it starts can ever have more.
///
/// Without an account the user stays. Afterwards the process cannot be traced or dumped by its
/// own user, and set-user-id programs do nothing for it.
///
/// # Errors
///
/// Fails if there is more than one thread, since capabilities belong to threads; or if the kernel
/// refuses. The process may then have given up a part; it should not go on.
pub fn give_up(account: Option<Account>, keep: &[Capability]) -> io::Result<()> {
    if fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(io::Error::other("privileges must be given up before threads are started"));
    }
    let wanted = keep.iter().fold(CapabilitySet::empty(), |set, keep| set | keep.bit());
    let held = capabilities(None)?.permitted;
    let kept = held & wanted;
    let may_forbid = held.contains(CapabilitySet::SETPCAP);

    if may_forbid {
        forbid_all_but(kept)?;
    }
    if let Some(Account { uid, gid }) = account {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        prctl::set_keepcaps(true)?;
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    if may_forbid {
        // The user's change has emptied the effective set.
        have(kept | CapabilitySet::SETPCAP)?;
        set_capabilities_secure_bits(
            CapabilitiesSecureBits::NO_ROOT
                | CapabilitiesSecureBits::NO_ROOT_LOCKED
                | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
                | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
                | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
                | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
        )?;
    }
    have(kept)?;
    // Linux before 4.3 has no such set, and nothing in it.
    let _ = clear_ambient_capability_set();
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    Ok(())
}

fn have(set: CapabilitySet) -> io::Result<()> {
    let inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: set, permitted: set, inheritable })?)
}

fn forbid_all_but(kept: CapabilitySet) -> io::Result<()> {
    for number in 0..MAX_CAPABILITIES {
        let one = CapabilitySet::from_bits_retain(1 << number);
        // An error says that the kernel has no such capability, nor any with a higher number.
        let Ok(is_allowed) = capability_is_in_bounding_set(one) else { break };
        if is_allowed && !kept.contains(one) {
            remove_capability_from_bounding_set(one)?;
        }
    }
    Ok(())
}

/// Root that acts as somebody else, until this is dropped.
#[derive(Debug)]
#[must_use = "root is root again when this is dropped"]
pub struct ActingAs(());

impl ActingAs {
    /// Makes and changes files as the account would from here on: whoever controls a folder
    /// cannot lead root astray with it. Reading stays unlimited, so that the folder can be
    /// reached wherever it is.
    ///
    /// # Errors
    ///
    /// Fails if the process is not root.
    pub fn new(account: Account) -> io::Result<Self> {
        setegid(Gid::from_raw(account.gid))?;
        let acting = Self(());
        seteuid(Uid::from_raw(account.uid))?;
        let mut sets = capabilities(None)?;
        sets.effective = sets.permitted & CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, sets)?;
        Ok(acting)
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        // The real and the saved user are still root, who may always return.
        let _ = seteuid(Uid::from_raw(0));
        let _ = setegid(Gid::from_raw(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_keeps_what_it_has() {
        // The test harness is the second thread.
        let before = capabilities(None).unwrap();

        let refused = give_up(None, &[]).unwrap_err().to_string();

        assert!(refused.contains("before threads"), "{refused}");
        assert_eq!(capabilities(None).unwrap(), before);
    }

    #[test]
    fn every_user_exists_where_there_is_no_container() {
        assert!(is_mapped(Account { uid: Uid::current().as_raw(), gid: Gid::current().as_raw() }));
    }

    #[test]
    fn capabilities_are_called_as_the_kernel_calls_them() {
        assert_eq!(Capability::NetAdmin.name(), "CAP_NET_ADMIN");
        assert_eq!(Capability::NetAdmin.bit().bits(), 1 << 12);
    }
}
