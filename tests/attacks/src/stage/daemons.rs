//! Daemons that would capture for whoever asks them, played by the stage.

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    thread,
};

use anyhow::Result;

/// Where they listen, and who may ask.
pub(crate) const DOCKER: &str = "/run/docker.sock";
pub(crate) const DBUS: &str = "/run/dbus/system_bus_socket";

/// What they say to whoever asks.
pub(crate) const YES: &[u8] = b"as you wish";

/// Starts them.
pub(crate) fn play() -> Result<()> {
    // Docker's is root's; the bus is everybody's.
    for (path, mode) in [(DOCKER, 0o600), (DBUS, 0o666)] {
        let path = Path::new(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 64];
                if stream.read(&mut request).is_ok_and(|count| count > 0) {
                    let _ = stream.write_all(YES);
                }
            }
        });
    }
    Ok(())
}
