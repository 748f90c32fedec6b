//! The little that is needed of a container's /etc/passwd: a user's home.

use super::root::Root;
use std::io::Read;

/// Most bytes of the file that are read.
const MAX_SIZE: u64 = 1 << 20;

/// Home directory of `uid` by /etc/passwd of this root; `/` when there is no such file or user.
pub fn home(root: &Root, uid: u32) -> String {
    let mut text = Vec::new();
    if let Ok(file) = root.open_regular("/etc/passwd") {
        let _ = std::fs::File::from(file).take(MAX_SIZE).read_to_end(&mut text);
    }
    home_in(&String::from_utf8_lossy(&text), uid).unwrap_or("/").to_owned()
}

fn home_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let id = fields.nth(2)?.parse::<u32>().ok()?;
        let home = fields.nth(2)?;
        (id == uid && !home.is_empty()).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\n# comment\nbad:x\nnohome:x:7:7::\nuser:x:1000:100:U,,:/home/user:\nsame:x:1000:1::/second:";

    #[test]
    fn the_first_line_with_the_uid_gives_the_home() {
        assert_eq!(home_in(PASSWD, 0), Some("/root"));
        assert_eq!(home_in(PASSWD, 1000), Some("/home/user"));
        assert_eq!(home_in(PASSWD, 7), None);
        assert_eq!(home_in(PASSWD, 8), None);
        assert_eq!(home_in("", 0), None);
    }

    #[test]
    fn the_file_is_read_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path().to_str().unwrap()).unwrap();
        assert_eq!(home(&root, 0), "/");
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("real"), PASSWD).unwrap();
        std::os::unix::fs::symlink("/real", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(home(&root, 1000), "/home/user");
    }
}
