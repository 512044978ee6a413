//! The secret of `carillon dev`: made on the first start, kept in the data folder, so that links and tokens of
//! yesterday still work today.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use carillon_platform::settings::Secret;

/// The key could be neither read nor made.
#[derive(Debug, thiserror::Error)]
#[error("key of carillon dev: {}: {problem}", path.display())]
pub struct DevKeyError {
    path: PathBuf,
    problem: String,
}

/// The secret in `<data_dir>/dev-key`, which only the user of this process can read. Makes folder and file where they are
/// missing.
pub fn dev_key(data_dir: &Path) -> Result<Secret, DevKeyError> {
    let path = data_dir.join("dev-key");
    let failed = |problem: String| DevKeyError { path: path.clone(), problem };
    if !path.exists() {
        make(data_dir, &path).map_err(|error| failed(format!("can't be made: {error}")))?;
    }
    let text = fs::read_to_string(&path).map_err(|error| failed(format!("can't be read: {error}")))?;
    let too_short =
        || failed(format!("expected {} bytes or more; delete it, and the next start makes another", Secret::MIN_BYTES));
    Secret::parse(text.trim_end()).ok_or_else(too_short)
}

/// Written beside its place and linked there, so that nobody ever reads half a key, and of two processes that start at
/// once both end up with the same one.
fn make(data_dir: &Path, path: &Path) -> io::Result<()> {
    fs::create_dir_all(data_dir)?;
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let draft = data_dir.join(format!("dev-key.{}", uuid::Uuid::new_v4()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let linked = writeln!(file, "{text}").and_then(|()| file.sync_all()).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    fs::remove_file(&draft)?;
    linked
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn key_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("new/data");
        let first = dev_key(&data_dir).unwrap();
        assert_eq!(dev_key(&data_dir).unwrap(), first);
        assert_eq!(fs::metadata(data_dir.join("dev-key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 1);
        assert_ne!(dev_key(folder.path()).unwrap(), first);
    }

    #[test]
    fn racing_starts_share_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| dev_key(folder.path()).unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn short_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("dev-key"), "short").unwrap();
        assert!(dev_key(folder.path()).unwrap_err().to_string().contains("dev-key"));
    }
}
