use super::*;

const ACCEPT: Insn = Insn::new(0x06, 0, 0, 65535);

fn with(insn: Insn) -> Result<Program, ProgramError> {
    Program::new(vec![insn, ACCEPT])
}

#[test]
fn a_program_that_the_kernel_takes_is_decoded() {
    let program = Program::new(vec![
        Insn::new(0x28, 0, 0, 12),
        Insn::new(0x15, 0, 1, 0x800),
        ACCEPT,
        Insn::new(0x06, 0, 0, 0),
    ])
    .unwrap();
    let size = Size::Half;
    let branch = Op::Branch {
        test: Test::Equal,
        operand: Operand::Constant(0x800),
        then: 2,
        otherwise: 3,
    };
    let load = Op::LoadAbsolute { size, offset: 12 };
    let expected = [load, branch, Op::Return(65535), Op::Return(0)];
    assert_eq!(program.ops(), expected);
    assert_eq!(program.insns().len(), 4);
}

#[test]
fn what_the_kernel_refuses_is_refused() {
    assert_eq!(Program::new(vec![]), Err(ProgramError::Empty));
    let long = Program::new(vec![ACCEPT; MAX_INSTRUCTIONS + 1]);
    assert_eq!(long, Err(ProgramError::TooLong(MAX_INSTRUCTIONS + 1)));
    assert!(Program::new(vec![ACCEPT; MAX_INSTRUCTIONS]).is_ok());
    let open = Program::new(vec![Insn::new(0x87, 0, 0, 0)]);
    assert_eq!(open, Err(ProgramError::RunsOffTheEnd));
    let at = 0;
    for (insn, error) in [
        ((0x15, 1, 0, 0), ProgramError::JumpOutOfRange { at }),
        ((0x15, 0, 1, 0), ProgramError::JumpOutOfRange { at }),
        ((0x05, 0, 0, 1), ProgramError::JumpOutOfRange { at }),
        ((0x05, 0, 0, u32::MAX), ProgramError::JumpOutOfRange { at }),
        ((0x02, 0, 0, 16), ProgramError::NoSuchCell { at, cell: 16 }),
        ((0x34, 0, 0, 0), ProgramError::DividesByZero { at }),
        ((0x94, 0, 0, 0), ProgramError::DividesByZero { at }),
        ((0x64, 0, 0, 32), ProgramError::ShiftsTooFar { at, by: 32 }),
        (
            (0x61, 0, 0, 3),
            ProgramError::ReadBeforeWritten { at, cell: 3 },
        ),
    ] {
        let (code, jt, jf, k) = insn;
        assert_eq!(with(Insn::new(code, jt, jf, k)), Err(error));
    }
    for code in [
        0x0e, 0x21, 0x38, 0x55, 0x8c, 0xb4, 0xa1, 0x0f, 0x17, 0x100, 0xffff,
    ] {
        let error = ProgramError::UnknownOperation { at, code };
        assert_eq!(with(Insn::new(code, 0, 0, 1)), Err(error));
    }
}

#[test]
fn what_is_no_function_of_the_packet_is_refused() {
    for (number, what) in [(36, "cpu"), (56, "random"), (12, "nlattr")] {
        let error = ProgramError::NotOfThePacket { at: 0, what };
        assert_eq!(with(Insn::new(0x20, 0, 0, ANCILLARY + number)), Err(error));
    }
    let error = ProgramError::UnknownAncillary { at: 0, number: 64 };
    assert_eq!(with(Insn::new(0x20, 0, 0, ANCILLARY + 64)), Err(error));
    for number in 0..0x1000 {
        if let Some(known) = Ancillary::from_number(number) {
            assert_eq!(known.number(), number);
            assert!(with(Insn::new(0x30, 0, 0, known.k())).is_ok());
        }
    }
}

#[test]
fn memory_is_written_on_every_path_before_it_is_read() {
    let skip = Insn::new(0x15, 1, 0, 0);
    let store = Insn::new(0x02, 0, 0, 0);
    let load = Insn::new(0x60, 0, 0, 0);
    let error = ProgramError::ReadBeforeWritten { at: 2, cell: 0 };
    assert_eq!(Program::new(vec![skip, store, load, ACCEPT]), Err(error));
    assert!(Program::new(vec![store, skip, store, load, ACCEPT]).is_ok());
}
