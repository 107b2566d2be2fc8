"""The methods of ActivationService that go through a dataset, one file each."""
