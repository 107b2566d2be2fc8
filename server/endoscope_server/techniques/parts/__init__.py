"""What gradient techniques are made of: subject, parameterisation, transforms, objective, optimiser loop."""
