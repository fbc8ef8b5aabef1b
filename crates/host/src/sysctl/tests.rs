use super::*;
use crate::testing::{Lab, set_sysctl, sh, sysctl};

const FORWARD4: &str = "net/ipv4/ip_forward";
const FORWARD6: &str = "net/ipv6/conf/all/forwarding";

fn folders() -> [PathBuf; 2] {
    ["/run/one", "/run/two"].map(|folder| {
        fs::create_dir(folder).unwrap();
        PathBuf::from(folder)
    })
}

#[test]
fn the_last_holder_restores_what_the_first_one_found() {
    Lab::run(|lab| {
        sh("ip link add lan0 type veth peer name lan1");
        set_sysctl("net/ipv4/conf/all/accept_redirects", "0");
        set_sysctl("net/ipv4/conf/lan0/forwarding", "1");
        set_sysctl("net/ipv6/conf/lan0/forwarding", "1");
        let (place, [one, two]) = (Place::here().unwrap(), folders());
        let before = lab.snapshot();

        for setting in [Setting::Forward4, Setting::Forward6, Setting::ValidMark] {
            hold(setting, &place, &one).unwrap();
            hold(setting, &place, &two).unwrap();
            assert_eq!(is_on(setting), Some(true));
            assert!(is_ours(setting, &place, &two).unwrap());

            assert!(release(setting, &place, &one).unwrap());
            assert!(!release(setting, &place, &one).unwrap());
            assert_eq!(is_on(setting), Some(true), "{setting} is still held");

            assert!(release(setting, &place, &two).unwrap());
            assert_eq!(is_on(setting), Some(false));
        }
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn a_setting_that_is_on_already_is_nobodys() {
    Lab::run(|_| {
        set_sysctl(FORWARD4, "1");
        let (place, [one, _]) = (Place::here().unwrap(), folders());

        hold(Setting::Forward4, &place, &one).unwrap();
        assert!(!is_ours(Setting::Forward4, &place, &one).unwrap());

        assert!(!release(Setting::Forward4, &place, &one).unwrap());
        assert_eq!(sysctl(FORWARD4), "1");
    });
}

#[test]
fn holders_whose_process_is_gone_do_not_count() {
    Lab::run(|_| {
        let (place, [one, two]) = (Place::here().unwrap(), folders());
        hold(Setting::Forward4, &place, &one).unwrap();
        // As a process would leave it that had our number before us.
        let path = place.shared_folder().join("sysctl.json");
        let text = fs::read_to_string(&path).unwrap();
        let started = start_of(std::process::id()).unwrap();
        let dead = text.replace(&format!("\"started\": {started}"), "\"started\": 1");
        assert_ne!(text, dead);
        fs::write(&path, dead).unwrap();

        hold(Setting::Forward6, &place, &two).unwrap();

        assert_eq!(sysctl(FORWARD4), "0", "whoever comes next restores it");
        assert_eq!(sysctl(FORWARD6), "1");
    });
}

#[test]
fn what_a_dead_holder_found_is_what_its_successor_restores() {
    Lab::run(|_| {
        let (place, [one, two]) = (Place::here().unwrap(), folders());
        hold(Setting::Forward4, &place, &one).unwrap();
        let path = place.shared_folder().join("sysctl.json");
        let pid = format!("\"pid\": {}", std::process::id());
        // Above every limit of the kernel (`PID_MAX_LIMIT`).
        let dead = fs::read_to_string(&path).unwrap().replace(&pid, "\"pid\": 4194305");
        fs::write(&path, dead).unwrap();

        hold(Setting::Forward4, &place, &two).unwrap();
        assert_eq!(sysctl(FORWARD4), "1");
        release(Setting::Forward4, &place, &two).unwrap();

        assert_eq!(sysctl(FORWARD4), "0");
    });
}

#[test]
fn a_host_that_becomes_a_router_still_takes_router_advertisements() {
    Lab::run(|_| {
        sh("ip link add lan0 type veth peer name lan1");
        set_sysctl("net/ipv6/conf/lan1/accept_ra", "0");
        let (place, [one, _]) = (Place::here().unwrap(), folders());

        hold(Setting::Forward6, &place, &one).unwrap();

        assert_eq!(sysctl("net/ipv6/conf/lan0/accept_ra"), "2");
        assert_eq!(sysctl("net/ipv6/conf/lan1/accept_ra"), "0");
        release(Setting::Forward6, &place, &one).unwrap();
        assert_eq!(sysctl("net/ipv6/conf/lan0/accept_ra"), "1");
    });
}

#[test]
fn what_others_changed_since_is_left_to_them() {
    Lab::run(|_| {
        sh("ip link add lan0 type veth peer name lan1");
        let (place, [one, _]) = (Place::here().unwrap(), folders());
        hold(Setting::Forward6, &place, &one).unwrap();
        set_sysctl("net/ipv6/conf/lan0/accept_ra", "0");
        sh("ip link add late0 type veth peer name late1");

        release(Setting::Forward6, &place, &one).unwrap();

        assert_eq!(sysctl("net/ipv6/conf/lan0/accept_ra"), "0");
        assert_eq!(sysctl(FORWARD6), "0");
    });
}

#[test]
fn without_a_writable_run_the_state_folder_keeps_the_register() {
    Lab::run(|_| {
        let place = Place::here().unwrap();
        sh("mount -t tmpfs tmpfs /mnt");
        sh("mount -o remount,ro,bind /run");
        let state = Path::new("/mnt");

        hold(Setting::Forward4, &place, state).unwrap();
        assert!(state.join(format!("sysctl-{}.json", place.netns)).exists());
        assert!(is_ours(Setting::Forward4, &place, state).unwrap());

        assert!(release(Setting::Forward4, &place, state).unwrap());
        assert_eq!(sysctl(FORWARD4), "0");
        assert_eq!(fs::read_dir(state).unwrap().count(), 0);
    });
}

#[test]
fn a_register_that_makes_no_sense_is_named_with_advice_and_kept() {
    Lab::run(|_| {
        let (place, [one, _]) = (Place::here().unwrap(), folders());
        hold(Setting::Forward4, &place, &one).unwrap();
        let path = place.shared_folder().join("sysctl.json");
        fs::write(&path, "{\"boot\":").unwrap();

        for error in [
            hold(Setting::Forward6, &place, &one).unwrap_err().to_string(),
            release(Setting::Forward4, &place, &one).unwrap_err().to_string(),
        ] {
            assert!(error.starts_with(&path.display().to_string()), "{error}");
            assert!(
                error.contains("not a register") && error.contains("delete the file"),
                "{error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
        assert_eq!(sysctl(FORWARD6), "0");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"boot\":");
    });
}

#[test]
fn a_zombie_or_nobody_has_no_start() {
    assert!(start_of(std::process::id()).is_some());
    assert_eq!(start_of(4_194_305), None);
}
