using System.Runtime.Versioning;
using Postcopy.Mutation;

[assembly: SupportedOSPlatform("linux")]

string root = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../../../.."));
try
{
    return args switch
    {
        ["guards", .. string[] rest] => GuardCheck.Run(root, rest),
        ["operators", .. string[] rest] => OperatorCheck.Run(root, rest),
        _ => throw new MutationException("Say what: 'guards [--quick] [NAME...]' or 'operators AREA [--sample N] [--seconds N]'."),
    };
}
catch (MutationException e)
{
    Console.Error.WriteLine(e.Message);
    return 2;
}
