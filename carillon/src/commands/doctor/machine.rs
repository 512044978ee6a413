//! This machine: how many sockets a process may hold, how much memory there is, and whether the data folder can be one.

use std::{fs, io::Write as _, path::Path};

use carillon_platform::settings::Settings;

use super::Findings;

/// Fewer open files than this are used up by a busy evening.
const FILES: u64 = 65_536;
/// What a process opens beside its clients' sockets: tables of the log, the journal, listeners, some room.
const OTHER_FILES: u64 = 512;
/// Free space below which a log is as good as full: its journals alone take half of it.
const FULL_BYTES: u64 = 256 * 1024 * 1024;
const LITTLE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

pub(super) fn look_at_limits(settings: &Settings, found: &mut Findings) {
    let limits = &settings.limits;
    // What a message may take in a frame of the server: itself, and its names around it.
    let largest = limits.frame_bytes + 1024;
    if limits.outbox_bytes < largest {
        let text = format!(
            "limits.outbox_bytes is {}, less than one message of limits.frame_bytes ({}) takes: whoever is sent one is closed as \
             too slow; set it to {} or more",
            limits.outbox_bytes,
            limits.frame_bytes,
            4 * largest
        );
        found.wrong("limits", text);
    } else if limits.outbox_total_bytes < limits.outbox_bytes {
        let text = format!(
            "limits.outbox_total_bytes is {}, less than limits.outbox_bytes ({}) allows one connection: raise it",
            limits.outbox_total_bytes, limits.outbox_bytes
        );
        found.wrong("limits", text);
    } else {
        found.well("limits", "they fit each other");
    }
}

pub(super) fn look_at_machine(settings: &Settings, found: &mut Findings) {
    let mend = "raise it with LimitNOFILE= of the systemd unit, or `ulimit -n`";
    match open_files() {
        Some(files) => {
            let room = files.saturating_sub(OTHER_FILES);
            let wanted = settings.limits.connections.map(|it| it as u64);
            match wanted {
                Some(wanted) if wanted > room => found.wrong(
                    "files",
                    format!("this user's processes may open {files} files, and limits.connections is {wanted}: {mend}"),
                ),
                _ if files < FILES => {
                    let text = format!("this user's processes may open {files} files, enough for {room} connections: {mend}");
                    found.doubtful("files", text);
                }
                _ => found.well("files", format!("{files} may be open at once")),
            }
        }
        None => found.doubtful("files", "how many files a process may open can't be told here: look at `ulimit -n`"),
    }
    if let Some(memory) = memory_bytes().filter(|memory| (settings.limits.outbox_total_bytes as u64) > memory / 2) {
        let text = format!(
            "limits.outbox_total_bytes is {}, more than half of this machine's memory ({memory}): slow clients may use it up; lower it",
            settings.limits.outbox_total_bytes
        );
        found.doubtful("memory", text);
    }
}

/// The soft limit, as `/proc/self/limits` tells it.
fn open_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn memory_bytes() -> Option<u64> {
    let told = fs::read_to_string("/proc/meminfo").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// `is_running`: a Carillon with these settings is at work.
pub(super) fn look_at_folder(settings: &Settings, is_running: bool, found: &mut Findings) {
    let folder = &settings.data_dir;
    let shown = folder.display();
    if let Some(holder) = holder(folder) {
        match is_running {
            true => found.well("data_dir", format!("{shown} is that Carillon's (pid {holder})")),
            false => {
                let text = format!(
                    "{shown} is in use by another process (pid {holder}): stop that one, or set data_dir to another folder"
                );
                found.wrong("data_dir", text);
            }
        }
        return;
    }
    // Where it would be made, if it is not there.
    let Some(place) = folder.ancestors().find(|place| place.exists() || place.as_os_str().is_empty()) else { return };
    let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
    if let Err(error) = try_to_write(place) {
        let text = format!("{shown} can't be written: {error}; make it, owned by the user that runs Carillon, on a local disk");
        return found.wrong("data_dir", text);
    }
    match rustix::fs::statvfs(place).map(|it| it.f_bavail.saturating_mul(it.f_frsize)) {
        Ok(free) if free < FULL_BYTES => {
            let text = format!("{} MiB are free for {shown}: make room, or set data_dir to a larger disk", free >> 20);
            found.wrong("data_dir", text);
        }
        Ok(free) if free < LITTLE_BYTES => found.doubtful("data_dir", format!("only {} MiB are free for {shown}", free >> 20)),
        Ok(free) => match unfit(place) {
            Some(kind) => {
                found.doubtful("data_dir", format!("{shown} is on {kind}: an ack means what that keeps; use a local disk"))
            }
            None => found.well("data_dir", format!("{shown} can be written, {} GiB are free", free >> 30)),
        },
        Err(error) => found.doubtful("data_dir", format!("the free space of {shown} can't be told: {error}")),
    }
}

/// Who has the folder's lock, if somebody has.
fn holder(folder: &Path) -> Option<String> {
    let lock = fs::File::open(folder.join("lock")).ok()?;
    match lock.try_lock_shared() {
        Err(fs::TryLockError::WouldBlock) => {
            Some(fs::read_to_string(folder.join("lock")).map_or_else(|_| "unknown".into(), |pid| pid.trim().to_owned()))
        }
        _ => None,
    }
}

fn try_to_write(place: &Path) -> std::io::Result<()> {
    let probe = place.join(format!(".carillon-doctor-{}", std::process::id()));
    let written = fs::File::create_new(&probe).and_then(|mut file| file.write_all(b"x"));
    let _ = fs::remove_file(&probe);
    written
}

/// File systems on which a sync is no promise. The numbers are those of `statfs(2)`.
fn unfit(place: &Path) -> Option<&'static str> {
    match rustix::fs::statfs(place).ok()?.f_type as u64 & 0xffff_ffff {
        0x0102_1994 => Some("a file system in memory (tmpfs)"),
        0x6969 => Some("a network file system (NFS)"),
        0xff53_4d42 | 0xfe53_4d42 => Some("a network file system (SMB)"),
        _ => None,
    }
}
