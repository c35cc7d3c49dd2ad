using System.CommandLine;
using Postcopy.Uffd.Benchmarks.Migrations;

return new RootCommand("Our destination, for the lab") { ReceiveCommand.Build() }.Parse(args).Invoke();
