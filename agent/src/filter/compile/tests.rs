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
        let compiler = Compiler::new(program).with_time_limit(limit);
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
