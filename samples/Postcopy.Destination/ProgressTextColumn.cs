using Spectre.Console;
using Spectre.Console.Rendering;

namespace Postcopy.Destination;

/// <summary>The figures beside the progress bar.</summary>
internal sealed class ProgressTextColumn(ProgressView view) : ProgressColumn
{
    public override IRenderable Render(RenderOptions options, ProgressTask task, TimeSpan deltaTime) => new Text(view.Text());
}
