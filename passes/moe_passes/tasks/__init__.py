"""From the dataflow of the two phases and the routing of a round to its tasks."""
