"""Online data selection: losses of a super-batch -> indices of the rows to train on."""
