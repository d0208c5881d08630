"""What an address serves: the same endpoints and listeners in the first process and in every frontend process."""
