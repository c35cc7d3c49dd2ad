using System.CommandLine;
using Postcopy.Destination;

RootCommand root = new CommandLine().Build(DestinationRun.RunAsync);
root.Add(SourceMain.Build());
ParseResult parsed = root.Parse(args);
if (parsed.Errors.Count > 0)
{
    foreach (System.CommandLine.Parsing.ParseError error in parsed.Errors)
    {
        Console.Error.WriteLine(error.Message);
    }

    Console.Error.WriteLine("Try --help.");
    return CommandLine.UsageError;
}

// Ctrl-C asks to end; the run then closes in order, and is given time for it.
return await parsed.InvokeAsync(new InvocationConfiguration { ProcessTerminationTimeout = TimeSpan.FromSeconds(20) });
