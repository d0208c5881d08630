"""What stands in for packages of other servers that users' code imports."""
