//! The real binary: help, versions, exit codes, and messages for mistakes.

#[path = "support/ports.rs"]
mod ports;

use std::fs;
use std::process::{Command, Output};

use ports::free_port;

fn piccolo(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let inherited = std::env::vars().filter(|(name, _)| !name.starts_with("PICCOLO_"));
    Command::new(env!("CARGO_BIN_EXE_piccolo"))
        .args(arguments)
        .env_clear()
        .envs(inherited)
        .envs(environment.iter().copied())
        .output()
        .expect("the binary starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const COMMANDS: [&[&str]; 15] = [
    &[],
    &["up"],
    &["server"],
    &["agent"],
    &["mirror", "install"],
    &["mirror", "remove"],
    &["mirror", "check"],
    &["status"],
    &["find"],
    &["hosts"],
    &["members", "list"],
    &["members", "add"],
    &["members", "replace"],
    &["members", "remove"],
    &["members", "transfer-leader"],
];

#[test]
fn help_and_version_succeed_for_every_command() {
    for command in COMMANDS {
        let help = piccolo(&[command, &["--help"]].concat(), &[]);
        assert_eq!(code(&help), 0, "{command:?}");
        assert!(stdout(&help).contains("piccolo "), "{command:?} shows an example");
        assert!(stdout(&help).contains("--log-level"), "{command:?}");
        let version = piccolo(&[command, &["--version"]].concat(), &[]);
        assert_eq!(code(&version), 0, "{command:?}");
        assert!(stdout(&version).contains(env!("CARGO_PKG_VERSION")), "{command:?}");
    }
    assert!(stdout(&piccolo(&["--help"], &[])).contains("Exit codes: 0 done, 1 failed, 2 wrong usage"));
    let hidden = stdout(&piccolo(&["server", "--help"], &[]));
    assert!(!hidden.contains("exit-with-parent"), "{hidden}");
}

#[test]
fn wrong_usage_has_exit_code_2() {
    let cases: [&[&str]; 10] = [
        &[],
        &["mirror"],
        &["serve"],
        &["server", "--nonsense", "1"],
        &["find"],
        &["server", "--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2"],
        &["status", "--json=yes"],
        &["members"],
        &["members", "replace", "10.0.0.1:7790"],
        &["members", "add", "10.0.0.4:7790", "--patience", "0s"],
    ];
    for arguments in cases {
        assert_eq!(code(&piccolo(arguments, &[])), 2, "{arguments:?}");
    }
}

#[test]
fn all_mistakes_come_at_once_with_exit_code_2() {
    let output = piccolo(
        &["agent", "--mirror-listen", "here", "--uploads-max", "-1"],
        &[("PICCOLO_SERVERS", "node-1:7789"), ("MIRROR_RESOLVE_TIMEOUT", "2"), ("PICCOLO_LOG_FORMAT", "xml")],
    );
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    for part in [
        "5 mistakes",
        "--mirror-listen: invalid value \"here\"",
        "--uploads-max: invalid value \"-1\"",
        "PICCOLO_SERVERS: invalid value \"node-1:7789\"",
        "MIRROR_RESOLVE_TIMEOUT: invalid value \"2\"",
        "PICCOLO_LOG_FORMAT: invalid value \"xml\"",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn an_unreachable_server_has_exit_code_4() {
    // A port at which nothing listens.
    let port = free_port();
    let server = format!("http://127.0.0.1:{port}");
    for command in
        [&["status"][..], &["hosts"], &["find", "nginx"], &["members", "list"], &["members", "remove", "1"]]
    {
        let output = piccolo(&[command, &["--server", &server]].concat(), &[]);
        assert_eq!(code(&output), 4, "{command:?}: {}", stderr(&output));
        assert_eq!(stderr(&output).matches(&server).count(), 1, "{}", stderr(&output));
        assert!(stderr(&output).contains("name others with --server URL"), "{}", stderr(&output));
        assert_eq!(stdout(&output), "", "{command:?}");
    }
}

#[test]
fn an_argument_that_is_no_image_has_exit_code_2() {
    let output = piccolo(&["find", "No Image"], &[]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("\"No Image\" is neither a digest nor the name of an image"));
}

#[test]
fn variables_that_nobody_knows_are_warned_about_and_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().to_str().unwrap();
    let output =
        piccolo(&["mirror", "remove", "--certs-dir", certs], &[("PICCOLO_PORT", "tcp://10.0.0.1:7789")]);
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("PICCOLO_PORT"), "{}", stderr(&output));
}

#[test]
fn mirror_install_and_remove_leave_a_folder_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().to_str().unwrap();
    let file = folder.path().join("ghcr.io/hosts.toml");
    fs::create_dir(folder.path().join("ghcr.io")).unwrap();
    fs::write(&file, "server = \"https://ghcr.io\" # ours\n").unwrap();

    let registries = ["--registry", "ghcr.io,docker.io"];
    let install = piccolo(&[&["mirror", "install", "--certs-dir", certs][..], &registries].concat(), &[]);
    assert_eq!(code(&install), 0, "{}", stderr(&install));
    assert!(fs::read_to_string(&file).unwrap().contains("[host.\"http://127.0.0.1:7780\"]"));
    assert!(folder.path().join("docker.io/hosts.toml").exists());

    let remove = piccolo(&["mirror", "remove", "--certs-dir", certs], &[]);
    assert_eq!(code(&remove), 0, "{}", stderr(&remove));
    assert_eq!(fs::read_to_string(&file).unwrap(), "server = \"https://ghcr.io\" # ours\n");
    assert!(!folder.path().join("docker.io").exists());
    assert_eq!(fs::read_dir(folder.path().join("ghcr.io")).unwrap().count(), 1);
}

#[test]
fn mirror_check_says_what_is_missing_and_has_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().to_str().unwrap();
    let nobody = "http://127.0.0.1:1";
    let check = ["mirror", "check", "--certs-dir", certs, "--mirror", nobody, "--agent", nobody];
    let output = piccolo(&[&check[..], &["--registry", "ghcr.io"]].concat(), &[]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for part in
        ["! ghcr.io: containerd has no hosts.toml", "! the mirror does not answer at http://127.0.0.1:1"]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let nowhere = folder.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let output =
        piccolo(&["mirror", "check", "--certs-dir", nowhere, "--mirror", nobody, "--agent", nobody], &[]);
    let text = stdout(&output);
    assert!(text.contains(&format!("! the folder {nowhere} of --certs-dir does not exist")), "{text}");
}

#[test]
fn output_that_fails_is_an_error_and_a_closed_pipe_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = ["mirror", "remove", "--certs-dir", folder.path().to_str().expect("a text")];
    let run = |stdout: std::process::Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_piccolo"));
        command
            .args(arguments)
            .stdout(stdout)
            .stderr(std::process::Stdio::piped())
            .output()
            .expect("it starts")
    };
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("there is one");
    let output = run(full.into());
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("could not write to stdout"), "{}", stderr(&output));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(code(&run(writer.into())), 0);
}

#[test]
fn docker_hub_has_one_folder_whatever_it_is_called() {
    let folder = tempfile::tempdir().expect("a folder");
    let certs_dir = folder.path().to_str().expect("a text");
    let install = |registry: &str| {
        piccolo(&["mirror", "install", "--certs-dir", certs_dir, "--registry", registry], &[])
    };
    assert_eq!(code(&install("index.docker.io")), 0);
    assert!(folder.path().join("docker.io/hosts.toml").is_file());
    assert!(!folder.path().join("index.docker.io").exists());
    assert_eq!(code(&install("docker.io,index.docker.io")), 2, "the same twice");
}

#[test]
fn mirror_install_tells_all_mistakes_at_once() {
    let output = piccolo(
        &["mirror", "install", "--registry", "ghcr.io,http://ghcr.io", "--mirror", "127.0.0.1:7780"],
        &[("PICCOLO_DIAL_TIMEOUT", "1h")],
    );
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    for part in [
        "4 mistakes",
        "--certs-dir: is required",
        "each registry only once",
        "--mirror: ",
        "PICCOLO_DIAL_TIMEOUT: ",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn a_hosts_toml_that_cannot_be_changed_has_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().to_str().unwrap();
    fs::create_dir(folder.path().join("ghcr.io")).unwrap();
    fs::write(folder.path().join("ghcr.io/hosts.toml"), "server = ").unwrap();
    let output = piccolo(&["mirror", "install", "--certs-dir", certs, "--registry", "ghcr.io"], &[]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("ghcr.io/hosts.toml"), "{}", stderr(&output));
}

#[test]
fn a_process_whose_parent_is_gone_ends() {
    // Any pid but that of this process, which is the parent.
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let output = piccolo(&["server", "--data-dir", data, "--exit-with-parent", "1"], &[]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("the parent process 1 is gone"), "{}", stderr(&output));
}
