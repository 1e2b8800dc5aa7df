"""Draw stored results: one idea a file, each giving `Picture`s with SVG text that an HTML page can hold.

Every chart is called with a scene:

    scene = Scene(results, Palette.of(results.engines), Labels.of(results.records))
    construction.pictures(scene)
"""
