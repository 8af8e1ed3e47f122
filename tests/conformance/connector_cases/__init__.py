"""One module per connector, its cases in ``CASES``. Add a module and the suite runs it."""
