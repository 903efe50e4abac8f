//! `ghostbit methods`: the embedded recipes.

use crate::Result;
use crate::methods::Recipe;
use crate::report::table::Table;
use clap::Subcommand;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Names and what they are
    List,
    /// A recipe in full, each choice with its source
    Show {
        /// Name of an embedded recipe
        name: String,
    },
}

pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::List => {
            let mut table = Table::new(["method", "generator loss", "student loss"]);
            for name in Recipe::names() {
                let r = Recipe::load(name)?;
                let terms = |list: Vec<&str>| list.join(" + ");
                table.row([
                    name.to_string(),
                    terms(r.generator_loss.terms().iter().map(|t| t.name()).collect()),
                    terms(r.student_loss.terms().iter().map(|t| t.name()).collect()),
                ]);
            }
            println!("{table}");
        }
        Command::Show { name } => print!("{}", Recipe::text(&name)?),
    }
    Ok(())
}
