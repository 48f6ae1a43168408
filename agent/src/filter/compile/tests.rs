use super::*;

#[test]
fn instructions_are_read_back_from_libpcap() {
    assert_eq!(parse("21 0 255 4294967295"), Some((21, 0, 255, u32::MAX)));
    assert_eq!(parse("21 0 0"), None);
    assert_eq!(parse("21 0 0 1 1"), None);
    assert_eq!(parse("21 0 256 1"), None);
}

#[test]
fn a_compiler_that_is_no_compiler_is_an_error() {
    let compile = |program: &str| {
        let limit = Duration::from_millis(200);
        let compiler = Compiler::new(program).with_patience(limit);
        compiler.compile("tcp", LinkType::EN10MB, Origin::Request)
    };
    assert!(matches!(
        compile("/nonexistent"),
        Err(CompileError::ChildFailed(_))
    ));
    assert!(matches!(
        compile("/bin/false"),
        Err(CompileError::ChildFailed(_))
    ));
    assert!(matches!(
        compile("/bin/echo"),
        Err(CompileError::ChildFailed(_))
    ));
}

#[test]
fn whoever_wrote_a_filter_is_told_what_they_can_do() {
    let of = |error: CompileError| (error.is_of_the_host(), error.remedy().unwrap_or_default());
    let busy = of(CompileError::Busy(PATIENCE));
    assert_eq!(busy, (true, "try again when the host has less to do"));
    assert_eq!(of(CompileError::ChildFailed(String::new())), (true, ""));
    let long = of(CompileError::TimedOut);
    assert_eq!(long, (false, "use a shorter filter"));
    let (of_the_host, remedy) = of(CompileError::Name);
    assert!(!of_the_host && remedy.starts_with("see pcap-filter(7)"));
    assert_eq!(
        CompileError::TimedOut.to_string(),
        "the filter took more than 5 s of processor time to compile"
    );
}
