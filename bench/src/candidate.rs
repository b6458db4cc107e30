//! The candidates: the command that runs each function, the artifact that is uploaded, and the contract it must keep.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail, ensure};

/// The candidates of this repository, in the order in which they are measured.
pub const NAMES: [&str; 7] =
    ["floor", "floor-static", "receive", "hand-signed", "tutorial", "python-powertools", "node"];

/// The expected behaviour of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// Responds with 200 to anything, and stores nothing.
    Nothing,
    /// The receiver's: stored, duplicate, or rejected with a 401. One item per event.
    Receiver,
    /// The same, with one idempotency record of Powertools per item, in a second table.
    ReceiverWithIdempotencyTable,
}

/// The time-out of `receive` in the template.
const RECEIVER_TIMEOUT: Duration = Duration::from_secs(10);

/// A function that can be run.
#[derive(Debug, Clone)]
pub struct Function {
    /// The executable.
    pub program: PathBuf,
    /// The arguments of the executable.
    pub arguments: Vec<String>,
    /// The working directory: Lambda's task root.
    pub folder: PathBuf,
    /// The file or folder that is uploaded to Lambda.
    pub artifact: PathBuf,
    /// The time of an invocation.
    pub timeout: Duration,
}

/// A function with the receiver's job, or none.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The name in the report.
    pub name: String,
    pub function: Function,
    /// The contract that its responses and items are checked against.
    pub contract: Contract,
    /// Whether it can read a key ring from Secrets Manager.
    pub reads_key_ring: bool,
}

impl Candidate {
    /// One of [`NAMES`], built in the folder `target`. The binary of `receive` is at the path `receive`.
    pub fn named(name: &str, target: &Path, receive: &Path) -> anyhow::Result<Self> {
        let built = target.join("bench");
        let candidate = match name {
            "floor" => Self { contract: Contract::Nothing, ..Self::binary(name, &built.join("rust/release/floor")) },
            "floor-static" => {
                Self { contract: Contract::Nothing, ..Self::binary(name, &built.join("floor-static/bootstrap")) }
            }
            "receive" => Self::binary(name, receive),
            "hand-signed" => Self { reads_key_ring: false, ..Self::binary(name, &built.join("hand-signed/bootstrap")) },
            "tutorial" => Self { reads_key_ring: false, ..Self::binary(name, &built.join("rust/tutorial/tutorial")) },
            "python-powertools" => Self {
                contract: Contract::ReceiverWithIdempotencyTable,
                ..Self::interpreted(
                    name,
                    &["python3", "-c", "import sys; print(sys.executable)"],
                    &["-m", "awslambdaric", "app.handler"],
                    &built.join(name),
                )?
            },
            "node" => {
                let client = absolute(&built.join("node-modules/node_modules/aws-lambda-ric/bin/index.mjs"))?;
                let client = client.display().to_string();
                Self {
                    reads_key_ring: false,
                    ..Self::interpreted(
                        name,
                        &["node", "--print", "process.execPath"],
                        &[&client, "index.handler"],
                        &built.join(name),
                    )?
                }
            }
            _ => bail!("unknown candidate `{name}`: choose from {}, or use --command", NAMES.join(", ")),
        };
        candidate.function.ensure_built(name)?;
        candidate.absolute()
    }

    /// Another candidate: `<name>=<command>`, with the words of the command separated by spaces.
    pub fn command(text: &str) -> anyhow::Result<Self> {
        let usage = || format!("--command {text}: expected <name>=<command>, e.g. arm=/path/to/bootstrap");
        let (name, command) = text.split_once('=').with_context(usage)?;
        let mut words = command.split_whitespace();
        let program = PathBuf::from(words.next().with_context(usage)?);
        ensure!(program.exists(), "--command {text}: {} does not exist", program.display());
        let mut candidate = Self::binary(name, &program);
        candidate.function.arguments = words.map(str::to_owned).collect();
        candidate.absolute()
    }

    fn binary(name: &str, program: &Path) -> Self {
        Self {
            name: name.to_owned(),
            function: Function::binary(program, RECEIVER_TIMEOUT),
            contract: Contract::Receiver,
            reads_key_ring: true,
        }
    }

    /// `ask` prints the interpreter's own path. The command on the `PATH` may be a wrapper script.
    fn interpreted(name: &str, ask: &[&str], arguments: &[&str], folder: &Path) -> anyhow::Result<Self> {
        let [program, question @ ..] = ask else { bail!("the interpreter of {name} has no command") };
        let asked = Command::new(program).args(question).output();
        let output = asked.with_context(|| format!("{name} needs {program}, which cannot be started: install it"))?;
        let program = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        ensure!(program.is_absolute(), "{name} needs {}, which did not print an absolute path", ask.join(" "));
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (folder, artifact) = (folder.to_owned(), folder.to_owned());
        let function = Function { program, arguments, folder, artifact, timeout: RECEIVER_TIMEOUT };
        Ok(Self { function, ..Self::binary(name, Path::new("")) })
    }

    fn absolute(self) -> anyhow::Result<Self> {
        Ok(Self { function: self.function.absolute()?, ..self })
    }
}

impl Function {
    /// The function of one binary.
    pub fn binary(program: &Path, timeout: Duration) -> Self {
        Self {
            program: program.to_owned(),
            arguments: Vec::new(),
            folder: program.parent().map(Path::to_owned).unwrap_or_default(),
            artifact: program.to_owned(),
            timeout,
        }
    }

    /// Fails with the way to build it if the function `name` is not built.
    pub fn ensure_built(&self, name: &str) -> anyhow::Result<()> {
        let artifact = self.artifact.display();
        ensure!(self.artifact.exists(), "{name} is not built: {artifact} does not exist; run bench/prepare {name}");
        Ok(())
    }

    /// The process runs in its own folder, where relative paths would lead elsewhere.
    pub fn absolute(self) -> anyhow::Result<Self> {
        Ok(Self {
            program: absolute(&self.program)?,
            folder: absolute(&self.folder)?,
            artifact: absolute(&self.artifact)?,
            ..self
        })
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is not a path", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_a_name_a_program_and_arguments() {
        let this = std::env::current_exe().unwrap();
        let candidate = Candidate::command(&format!("mine={} --flag 1", this.display())).unwrap();
        let function = &candidate.function;
        assert_eq!((candidate.name.as_str(), &function.program, &function.artifact), ("mine", &this, &this));
        assert_eq!(function.arguments, ["--flag", "1"]);
        assert_eq!(candidate.contract, Contract::Receiver);
    }

    #[test]
    fn errors_say_how_to_get_a_missing_candidate() {
        let nowhere = Path::new("/no/such/folder");
        let message = |name| Candidate::named(name, nowhere, &nowhere.join("receive")).unwrap_err().to_string();
        assert!(message("floor").ends_with("; run bench/prepare floor"), "{}", message("floor"));
        assert!(message("receive").ends_with("; run bench/prepare receive"));
        assert!(message("rust").contains("choose from floor, floor-static, receive,"));
        assert!(Candidate::command("no-equals-sign").unwrap_err().to_string().contains("expected <name>=<command>"));
        assert!(
            Candidate::command("a=/no/such/file").unwrap_err().to_string().ends_with("/no/such/file does not exist")
        );
    }
}
