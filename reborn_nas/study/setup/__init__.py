"""A configuration becomes the context that trainings share – network, sites, space, data – and that a plan."""
