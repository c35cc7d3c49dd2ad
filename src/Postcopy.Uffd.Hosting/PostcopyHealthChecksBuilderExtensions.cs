using System.Runtime.Versioning;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Postcopy.Uffd.Hosting;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Registers health checks of postcopy destinations.</summary>
[SupportedOSPlatform("linux")]
public static class PostcopyHealthChecksBuilderExtensions
{
    /// <summary>
    /// Adds a health check of a destination: unhealthy when the migration failed, degraded while the link is down or a page
    /// stays away longer than <see cref="PostcopyHostingOptions.StallAlarm"/>. Its data has the state and what is missing.
    /// </summary>
    /// <param name="builder">Of <c>services.AddHealthChecks()</c>.</param>
    /// <param name="destination">The destination's name; empty for the one without.</param>
    /// <param name="name">The check's name; null for <c>postcopy</c>, or <c>postcopy-</c> and the destination's name.</param>
    /// <param name="failureStatus">What a failed migration is; null for unhealthy.</param>
    /// <param name="tags">For filters.</param>
    /// <returns>The builder.</returns>
    public static IHealthChecksBuilder AddPostcopyDestination(
        this IHealthChecksBuilder builder, string destination = "", string? name = null, HealthStatus? failureStatus = null, IEnumerable<string>? tags = null)
    {
        ArgumentNullException.ThrowIfNull(builder);
        ArgumentNullException.ThrowIfNull(destination);
        return builder.Add(new HealthCheckRegistration(
            name ?? (destination.Length == 0 ? "postcopy" : $"postcopy-{destination}"),
            provider => new PostcopyHealthCheck(provider.GetRequiredKeyedService<PostcopyReceiver>(destination)),
            failureStatus,
            tags));
    }
}
